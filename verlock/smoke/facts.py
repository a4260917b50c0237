"""What is installed and what runs: read from the environment itself, for gate 1 and the certificate."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from verlock.smoke import kernels, names

# Those of vLLM's that are compiled: a wrong C++ ABI or CUDA shows as an undefined symbol when they are imported.
IMPORTS = ("vllm", "vllm.cumem_allocator", "verl", "verl.trainer.main_ppo", "ray", "tensordict")
OPTIONAL = ("flash_attn",)
PACKAGES = ("vllm", "verl", "torch", "transformers", "ray", "tensordict", "numpy", "triton", "xformers", "flash-attn")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def modules() -> tuple[str, ...]:
    """What must import in an environment with vLLM and verl."""
    return (*IMPORTS, names.place(names.KERNELS))


def imports(wanted: Sequence[str]) -> dict[str, str]:
    """Import each module: module -> error text, empty if it imports. Optional modules are tried if they are installed."""
    tried = [*wanted, *(name for name in OPTIONAL if versions([name.replace("_", "-")]))]
    result = {}
    for module in tried:
        try:
            importlib.import_module(module)
            result[module] = ""
        # A compiled module can raise anything while it loads, and the gate reports all of it.
        except Exception as error:
            result[module] = f"{type(error).__name__}: {error}"
    return result


def flash_attn_kernels() -> dict[str, list[int]]:
    """Which of flash-attn's kernels work on this GPU, forward and backward: dtype -> head sizes.

    A wheel may be built with only a few of them. Empty where there is no GPU or no flash_attn.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    try:
        from flash_attn import flash_attn_varlen_func
    # Its compiled part can raise anything while it loads, and `imports` reports that.
    except Exception:
        return {}
    return {
        dtype: [head for head in kernels.HEADS if _works(flash_attn_varlen_func, dtype, head)]
        for dtype in kernels.DTYPES
    }


def _works(attention: Any, dtype: str, head: int) -> bool:
    """Try one sequence of 16 tokens with 2 heads. It draws no random numbers: the gates depend on the generator's state."""
    import torch

    q, k, v = (
        torch.ones(16, 2, head, dtype=getattr(torch, dtype), device="cuda", requires_grad=True) for _ in range(3)
    )
    ends = torch.tensor([0, 16], dtype=torch.int32, device="cuda")
    try:
        with torch.enable_grad():
            out = attention(q, k, v, ends, ends, 16, 16, causal=True)
            out.sum().backward()
        torch.cuda.synchronize()
    # A kernel that was left out raises whatever its stub raises.
    except Exception:
        return False
    return all(bool(each.isfinite().all()) for each in (out, q.grad, k.grad, v.grad))


def gather(engine: str, driver: str, modules: Sequence[str]) -> dict[str, Any]:
    """Everything gate 1 looks at: see `gates.environment`.

    Args:
        engine: which engine is running, V0 or V1.
        driver: the GPU driver's version, as nvidia-smi names it.
        modules: what must import.
    """
    import torch

    return {
        "engine": engine,
        "driver": driver,
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "imports": imports(modules),
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else "",
        "cxx11abi": bool(torch._C._GLIBCXX_USE_CXX11_ABI),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "flash_attn": flash_attn_kernels(),
    }
