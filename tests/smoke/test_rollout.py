"""The vLLM wrapper against a vLLM of a few lines: what it asks for, and what it makes of the answer."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from verlock.smoke import rollout


class Graph:
    def replay(self):
        return "replayed"


class Part:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Model:
    def __init__(self):
        self.compiled = Part(do_not_compile=False)
        self.plain = Part()

    def modules(self):
        return [self.compiled, self.plain]


class Llm:
    """As much of vllm.LLM as is used; `logprob` objects are as vLLM's."""

    def __init__(self, **arguments):
        runner = Part(model=Model(), model_config=Part(enforce_eager=False), use_cuda_graph=True)
        worker = Part(model_runner=runner, rank=0)
        executor = Part(driver_worker=Part(worker=worker))
        self.llm_engine = Engine(executor)

    def get_tokenizer(self):
        return range(4096)

    def generate(self, prompts, sampling, use_tqdm):
        self.asked, self.sampling = prompts, sampling
        outputs = [Part(token_ids=[7, 8], logprobs=[{7: lp(-1.0), 5: lp(-0.5), 9: lp(-3.0)}, {8: lp(-2.0)}])]
        return [Part(prompt_token_ids=each["prompt_token_ids"], outputs=outputs) for each in prompts]


class Engine:
    def __init__(self, executor):
        self.model_executor, self.model_config = executor, Part(get_vocab_size=lambda: 4096)


def lp(value):
    return SimpleNamespace(logprob=value)


@pytest.fixture
def made(monkeypatch):
    seeds = []
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(CUDAGraph=type("CUDAGraph", (Graph,), {"replay": Graph.replay}))
    torch.manual_seed = seeds.append
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = Llm, SimpleNamespace
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "vllm", vllm)

    def make(module="vllm.engine.llm_engine"):
        monkeypatch.setattr(Engine, "__module__", module)
        engine = rollout.Vllm(model="x")
        engine.seeds, engine.graph = seeds, torch.cuda.CUDAGraph()
        return engine

    return make


@pytest.mark.parametrize(("module", "kind"), [("vllm.engine.llm_engine", "V0"), ("vllm.v1.engine.llm_engine", "V1")])
def test_the_engine_is_told_by_the_live_object(made, monkeypatch, module, kind):
    monkeypatch.setenv("VLLM_USE_V1", "1" if kind == "V0" else "0")
    assert made(module).kind == kind


def test_every_sampling_parameter_is_given(made):
    engine = made()
    engine.generate([(1, 2)], rollout.Request(new=2, n=4, seed=5))
    asked = vars(engine._llm.sampling)
    wanted = {
        "n": 4,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": None,
    }
    assert wanted.items() <= asked.items()
    assert asked["ignore_eos"] is True
    assert asked["logprobs"] == 0
    assert engine.seeds == [5]


def test_another_distribution_is_asked_for_by_name(made):
    engine = made()
    engine.generate([(1, 2)], rollout.Request(new=2, how=rollout.Sampling(temperature=0.9, top_p=0.95)))
    assert (engine._llm.sampling.temperature, engine._llm.sampling.top_p) == (0.9, 0.95)
    engine.generate([(1, 2)], rollout.Request(new=2, how=rollout.GREEDY))
    assert (engine._llm.sampling.temperature, engine._llm.sampling.top_p) == (0.0, 1.0)


def test_what_comes_back(made):
    ((one,),) = made().generate([(1, 2)], rollout.Request(new=2, how=rollout.GREEDY, top=2))
    assert (one.prompt, one.tokens, one.logprobs) == ((1, 2), (7, 8), (-1.0, -2.0))
    assert one.top == ({5: -0.5, 7: -1.0}, {8: -2.0})


def test_a_logprob_that_is_missing_is_no_number():
    output = Part(token_ids=[7], logprobs=[{5: lp(-0.5)}])
    assert math.isnan(rollout._generated([1], output, 0).logprobs[0])


def test_replays_are_counted_and_still_happen(made):
    engine = made()
    assert engine.graph.replay() == "replayed"
    assert engine.replays() == 1
    with engine.stale_graphs():
        assert engine.graph.replay() is None
    assert engine.graph.replay() == "replayed"
    assert engine.replays() == 3


def test_the_eager_path_switches_graphs_and_compilation_off_and_back(made):
    engine = made()
    runner, model = engine._runner, engine._model
    with pytest.raises(KeyError), engine.eager():
        assert runner.model_config.enforce_eager is True
        assert runner.use_cuda_graph is False
        assert model.compiled.do_not_compile is True
        assert not hasattr(model.plain, "do_not_compile")
        raise KeyError
    assert runner.model_config.enforce_eager is False
    assert runner.use_cuda_graph is True
    assert model.compiled.do_not_compile is False
