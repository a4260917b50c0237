"""`smoke --model`: a model of the user's own, looked at before anything is started; what its run leaves out; its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import ModelRefused
from verlock.system.gpu import Gpus
from verlock.variant import certificate
from verlock.variant.chosen import Chosen

# What a run with such a model does not measure, or gives without a verdict, and why; by gate.
LEFT_OUT = {
    "6": "memory is reported without a bound: the bounds were measured for the tiny model, whose optimizer takes next to nothing",
    "10": "weights are not compared with the trainer's: how this model is cut into shards is not known; "
    "gate 6 compares them with themselves, before and after sleeping",
    "verl": "not run: its steps are set up for the tiny model",
}
# Seconds that a phase may take: a large checkpoint is read twice, and its forward passes are longer.
LIMITS = {"trainer": 900.0, "engine": 1200.0, "gate": 600.0}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class OwnModel:
    """A whole Hugging Face folder: config.json, and weights as safetensors."""

    folder: Path
    architectures: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called on screen and in its report: its folder's name."""
        return self.folder.name

    def as_dict(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"name": self.name, "architectures": list(self.architectures), "left_out": LEFT_OUT}

    def report_path(self, chosen: Chosen, machine: Gpus) -> Path:
        """Where the report goes if the user names no file: beside the other reports, with the model in its name."""
        name = certificate.file_name(machine.name, machine.count, chosen.python, chosen.first_python)
        folder = paths.CERTIFICATES / chosen.name / "reports"
        return folder / f"{name.removesuffix('.json')}-model-{certificate.slug(self.name)}.json"


def at(folder: Path) -> OwnModel:
    """The model in a folder.

    Raises:
        ModelRefused: there is no such folder, or no config.json in it that names an architecture, or weights are missing, or they
            are quantized.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise ModelRefused(
            f"{folder} is no folder", "name a folder with a Hugging Face model: config.json and *.safetensors"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = tuple(config["architectures"])
        if not architectures or isinstance(config["architectures"], str):
            raise ValueError
    except FileNotFoundError:
        remedy = "name the folder that holds config.json, such as a snapshot in a Hugging Face cache"
        raise ModelRefused(f"{folder} has no config.json", remedy) from None
    except (ValueError, KeyError, TypeError):
        remedy = "download it again, or save the model with transformers' save_pretrained"
        raise ModelRefused(f"{folder / 'config.json'} names no architecture", remedy) from None
    if config.get("quantization_config"):
        raise ModelRefused(
            f"the weights in {folder} are quantized, and FSDP trains only whole ones",
            "take the model that they were made from",
        )
    if missing := _missing(folder):
        raise ModelRefused(
            f"{folder} lacks weights: {missing}",
            "download them; where they are in another form, save them as safetensors",
        )
    return OwnModel(folder, architectures)


def launched_with(config: dict[str, Any], model: OwnModel) -> dict[str, Any]:
    """A launch's configuration with this model in the place of the tiny one."""
    return {**config, "model": str(model.folder), "own": True, "limits": LIMITS}


def _missing(folder: Path) -> str:
    """Which weights are not there, or empty."""
    try:
        wanted = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        return "" if any(folder.glob("*.safetensors")) else "no *.safetensors"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{INDEX} cannot be read"
    gone = sorted(name for name in wanted if not (folder / name).is_file())
    return f"{gone[0]}{f' and {len(gone) - 1} more' if gone[1:] else ''}" if gone else ""
