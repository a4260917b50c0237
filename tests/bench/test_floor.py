"""The floor of a rollout, against a sum made by hand, step by step."""

import pytest

from verlock.bench import floor
from verlock.bench.shapes import SHAPES, Shape

TINY = Shape("tiny", 4, 8, 2, 2, 1, 10, tied=False)
CARD = {"copy_gb_s": 1e-6, "matmul_tflops": 1e-9}  # 1000 bytes and 1000 operations a second


def by_hand(shape, asks, n, slots):
    """Bytes and operations, one decode step after the other, all sequences from the start."""
    read = operations = 0
    sequences = [[prompt, new - 1] for prompt, new in asks for _ in range(n)]
    assert len(sequences) <= slots
    for prompt, _ in asks:
        operations += prompt * 2 * shape.layer_parameters + 2 * shape.vocabulary * shape.hidden
        operations += sum(4 * shape.layers * shape.hidden * seen for seen in range(1, prompt + 1))
    while any(left for _, left in sequences):
        read += shape.read_per_step
        for each in sequences:
            if each[1]:
                each[0], each[1] = each[0] + 1, each[1] - 1
                read += each[0] * shape.kv_bytes
                operations += 2 * (shape.layer_parameters + shape.vocabulary * shape.hidden)
                operations += 4 * shape.layers * shape.hidden * each[0]
    return read / 1000, operations / 1000


@pytest.mark.parametrize(("asks", "n"), [([(3, 4)], 1), ([(3, 4), (5, 2)], 1), ([(2, 3), (7, 6)], 3)])
def test_bytes_and_operations_are_those_of_every_step(asks, n):
    found = floor.of(TINY, asks, n, 16, CARD)
    read, operations = by_hand(TINY, asks, n, 16)
    assert found.reading == pytest.approx(read)
    assert found.prefill + found.decoding == pytest.approx(operations)
    assert found.seconds == pytest.approx(max(read, operations))


def test_more_sequences_than_slots_take_more_steps():
    few, many = (floor.of(TINY, [(3, 5)] * count, 1, 4, CARD) for count in (4, 8))
    assert many.reading == pytest.approx(2 * few.reading)


def test_the_7b_rollout_of_the_first_readings_is_about_four_seconds():
    found = floor.of(SHAPES["7b"], [(256, 512)] * 256, 1, 256, {"copy_gb_s": 3000.0, "matmul_tflops": 700.0})
    assert 3.5 < found.seconds < 4.5
