"""Run by an environment's own Python, one process per rank: what vLLM does with one text of its files, on CPU.

    python patch_behaviour.py FOLDER CASE...

RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set as torchrun sets them. The modules of the cases are
loaded from FOLDER, so the released and the patched text run in the same environment. The last line printed is JSON:
what happened in each case.
"""

import importlib
import importlib.util
import json
import os
import sys
import tempfile
import threading
from types import SimpleNamespace
from unittest import mock

MODULES = {
    "groups": "vllm.distributed.parallel_state",
    "local_rank": "vllm.executor.uniproc_executor",
    "empty_cache": "vllm.model_executor.model_loader.weight_utils",
    "stream": "vllm.utils",
    "executor": "vllm.engine.llm_engine",
}


class Redirect:
    """The cases' modules are imported from FOLDER, whoever imports them first."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        if name not in MODULES.values():
            return None
        return importlib.util.spec_from_file_location(name, f"{self.folder}/{name.replace('.', '/')}.py")


def groups():
    """Two ranks, tensor parallel size 1: which ranks are in this rank's tensor parallel group?"""
    state = importlib.import_module(MODULES["groups"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    state.init_distributed_environment(size, rank, "env://", int(os.environ["LOCAL_RANK"]), "gloo")
    try:
        state.initialize_model_parallel(1, 1)
        return {"tp": state.get_tp_group().ranks, "pp": state.get_pp_group().ranks}
    finally:
        state.destroy_distributed_environment()


def given_to_worker(executor_class):
    """What the executor's own `_init_executor` gives its worker; no worker is made."""
    sys.modules[executor_class.__module__].WorkerWrapperBase = lambda **_: None
    calls = []

    class Executor(executor_class):
        def __init__(self):
            self.parallel_config = SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1)
            self.vllm_config = SimpleNamespace(
                parallel_config=self.parallel_config,
                scheduler_config=SimpleNamespace(delay_factor=0.0),
            )

        def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
            calls.append((method, args))

    Executor()._init_executor()
    return dict(calls)["init_worker"][0][0]


def local_rank():
    """Which local rank does the external launcher give its worker?"""
    module = importlib.import_module(MODULES["local_rank"])
    with mock.patch.dict(os.environ, RANK="3", LOCAL_RANK="0"):  # the first GPU of the second node
        return {"local_rank": given_to_worker(module.ExecutorWithExternalLauncher)["local_rank"]}


def empty_cache():
    """How often is the CUDA cache emptied while a .bin checkpoint is loaded?"""
    import torch

    module = importlib.import_module(MODULES["empty_cache"])
    calls = []
    torch.cuda.empty_cache = lambda: calls.append(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"weight": torch.ones(2)}, f"{folder}/a.bin")
        names = [name for name, _ in module.pt_weights_iterator([f"{folder}/a.bin"])]
    return {"names": names, "calls": len(calls)}


def stream():
    """Another thread enters a stream, as autograd's does in FSDP's backward: which one does this thread take for its own?"""
    module = importlib.import_module(MODULES["stream"])
    module.prev_set_stream = lambda stream: None
    module.torch.cuda.current_stream = lambda: "mine"
    other = threading.Thread(target=module.torch.cuda.set_stream, args=("theirs",))
    other.start()
    other.join()
    before = module.current_stream()
    module.torch.cuda.set_stream("chosen")
    return {"unset": before, "set": module.current_stream()}


def executor():
    """Tensor parallel size 1 under the external launcher: which executor is taken, and which ranks does its worker get?"""
    module = importlib.import_module(MODULES["executor"])
    config = importlib.import_module("vllm.config").ParallelConfig(distributed_executor_backend="external_launcher")
    chosen = module.LLMEngine._get_executor_cls(SimpleNamespace(parallel_config=config))
    given = given_to_worker(chosen)
    return {"executor": chosen.__name__, "rank": given["rank"], "local_rank": given["local_rank"]}


if __name__ == "__main__":
    folder, *cases = sys.argv[1:]
    sys.meta_path.insert(0, Redirect(folder))
    results = {}
    for case in cases:
        try:
            results[case] = globals()[case]()
        except RuntimeError as error:
            results[case] = {"error": str(error)}
    print(json.dumps(results), flush=True)
