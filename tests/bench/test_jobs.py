"""The work that is measured: the same for every engine, and never a prompt twice."""

import statistics

from verlock.bench.jobs import JOBS, ROLLOUT


def test_every_compared_cell_has_the_same_sequences_and_tokens():
    for name in ("n1", "n8", "no-logprobs", "text", "upstream"):
        job = JOBS[name]
        assert (job.prompts * job.n, job.tokens(0), job.prompt, job.new) == (256, 256 * 512, 256, 512)


def test_prompts_are_drawn_by_seed_and_new_in_every_iteration():
    job = JOBS["n8"]
    asked = [tuple(ids) for iteration in (-1, -3, 0, 1, 2, 3) for ids, _ in job.asks(iteration, 1000)]
    assert len(set(asked)) == len(asked) == 6 * 32
    assert job.asks(1, 1000) == job.asks(1, 1000)
    assert all(2 <= each < 1000 and len(ids) == 256 for ids in asked for each in ids)


def test_drawn_lengths_have_the_mean_that_is_stated_and_end_where_the_script_ends():
    job = JOBS["script"]
    lengths = [each for iteration in range(20) for each in job.lengths(iteration)]
    assert abs(statistics.mean(new for _, new in lengths) / job.new - 1) < 0.05
    assert abs(statistics.mean(prompt for prompt, _ in lengths) / job.prompt - 1) < 0.05
    assert max(new for _, new in lengths) <= 4096 and min(prompt for prompt, _ in lengths) >= 1
    assert job.lengths(0) == job.lengths(0) != job.lengths(1)
    assert job.tokens(3) == sum(new for _, new in job.lengths(3))
    assert [len(ids) for ids, _ in job.asks(2, 50)] == [prompt for prompt, _ in job.lengths(2)]


def test_all_that_is_timed_fits_into_an_engine_of_8192_tokens():
    for job in JOBS.values():
        assert job.kind != ROLLOUT or max(job.longest * 2, job.prompt + job.new) <= 8192
