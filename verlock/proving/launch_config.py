"""What a launch is given: its environment variables, and the configuration that verlock/smoke reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.proving.passes import Part
from verlock.smoke import sabotage
from verlock.system import gpu, interfaces, process
from verlock.system.gpu import Gpus
from verlock.variant.chosen import Chosen

# Gate 1 checks the versions of these packages: a mismatch in them has broken such environments.
CHECKED = ("vllm", "verl", "torch", "transformers", "ray", "tensordict", "numpy", "triton", "xformers")
HANG_LIMIT = 10.0  # seconds to wait for the sabotage `hang`


def variables(chosen: Chosen) -> dict[str, str]:
    """The environment variables inside the prefix: the recipe's, all offline, no settings of the user's for vLLM and torch."""
    kept = process.VARIANT.environment()
    if "GPU-" in kept.get("CUDA_VISIBLE_DEVICES", "") and (named := gpu.indices()):  # vLLM 0.7 takes numbers only
        kept |= {"CUDA_VISIBLE_DEVICES": ",".join(named), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {
        # Everything is on this host: names, firewalls and other interfaces must not matter. Data still goes over NVLink.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of nvidia-smi; CUDA's own order puts the fastest first
        **kept,
        "PATH": os.pathsep.join([str(chosen.prefix / "bin"), kept.get("PATH", os.defpath)]),
        "PYTHONPATH": str(paths.ROOT),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "disabled",
        "HYDRA_FULL_ERROR": "1",
        **chosen.recipe.vllm.environment,
    }


def between_nodes(address: str) -> dict[str, str]:
    """The environment variables that replace those of `variables` where ranks are on several nodes; what the user has set stays.

    Args:
        address: this machine's, on the way to the other nodes: NCCL and gloo take its interface, and vLLM tells it to others.
    """
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    interface = interfaces.holding(address)
    return {**{name: os.environ.get(name, interface) for name in names}, "VLLM_HOST_IP": address}


def caches(folder: Path) -> dict[str, str]:
    """The environment variables that put compiled code into `folder`, which the launches of one run share."""
    return {
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def configuration(chosen: Chosen, machine: Gpus, part: Part, folder: Path) -> dict[str, Any]:
    """What `python -m verlock.smoke` reads: see verlock/smoke/__main__.py.

    Args:
        chosen: which environment.
        machine: the GPUs.
        part: which launch.
        folder: the run's; in it, the launch gets its own folder, and the model is written once for all launches.
    """
    recipe = chosen.recipe
    each = part.ranks // part.nodes
    pinned = {pin.name: pin.version for pin in chosen.pins}
    pinned["vllm"] = recipe.vllm.version  # a variant built from source has no pin
    return {
        "folder": str(folder / part.name),
        "model": str(folder / "model"),
        "mode": part.mode,
        "ranks": part.ranks,
        "tp": part.tp,
        "gpus": min(each, machine.count) * part.nodes,
        **({"nodes": part.nodes} if part.nodes > 1 else {}),
        "sabotage": "",
        "device": "cuda",
        "driver": machine.driver,
        "llm": recipe.vllm.llm,
        "sleep_mode": recipe.vllm.sleep_mode,
        "expected": {
            "versions": {name: pinned[name] for name in CHECKED if name in pinned},
            "engine": recipe.vllm.engine,
            "cuda": recipe.cuda.version,
            "min_driver": recipe.cuda.min_driver,
            "cxx11abi": recipe.torch.cxx11abi,
        },
    }


def sabotaged(config: dict[str, Any], mode: str) -> dict[str, Any]:
    """The same configuration with something broken on purpose."""
    limits = {"last": HANG_LIMIT} if mode in ("hang", sabotage.ALL) else {}
    return {**config, "sabotage": mode, "limits": limits}


def verl_configuration(chosen: Chosen, machine: Gpus, folder: Path) -> dict[str, Any]:
    """What `python -m verlock.smoke.grpo` reads: see verlock/smoke/grpo.py. The arguments are those of `configuration`."""
    return {
        "folder": str(folder / "verl"),
        "model": str(folder / "model"),
        "version": chosen.recipe.verl.version,
        "memory_gib": machine.memory_mib / 1024,
        "flags": chosen.recipe.verl.flags,
        "sabotage": "",
    }
