"""`smoke --model`: what is refused before anything starts, and what a run with a user's own model leaves behind."""

import json
from pathlib import Path

import pytest

from verlock import paths
from verlock.errors import ModelRefused
from verlock.proving import own_model
from verlock.system.gpu import Gpus
from verlock.variant.chosen import choose


def model(folder, *, config=None, weights=("model.safetensors",), index=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **(config or {})}))
    for name in weights:
        (folder / name).write_bytes(b"weights")
    if index is not None:
        (folder / own_model.INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def test_a_whole_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    model(tmp_path / "Some-Model_0.5B")
    monkeypatch.chdir(tmp_path)
    found = own_model.at(Path("Some-Model_0.5B"))
    assert found.folder == tmp_path / "Some-Model_0.5B", "torchrun may stand elsewhere"
    assert (found.name, found.architectures) == ("Some-Model_0.5B", ("LlamaForCausalLM",))


def test_weights_in_several_files_are_all_there(tmp_path):
    parts = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    assert own_model.at(model(tmp_path / "whole", weights=parts.values(), index=parts)).architectures
    with pytest.raises(ModelRefused, match=r"(?m)lacks weights: model-2-of-2\.safetensors$"):
        own_model.at(model(tmp_path / "cut", weights=["model-1-of-2.safetensors"], index=parts))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="nowhere is no folder") as caught:
        own_model.at(tmp_path / "nowhere")
    assert caught.value.exit_code == 55 and "config.json" in caught.value.remedy
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelRefused, match="file is no folder"):
        own_model.at(tmp_path / "file")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"has no config\.json"):
        own_model.at(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"architectures": null}', '{"architectures": []}', '{"architectures": "Llama"}']
)
def test_a_config_that_names_no_architecture_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelRefused, match=r"config\.json names no architecture"):
        own_model.at(tmp_path)


@pytest.mark.parametrize("weights", [(), ("pytorch_model.bin",)])
def test_a_model_without_safetensors_is_refused(tmp_path, weights):
    with pytest.raises(ModelRefused, match=r"lacks weights: no \*\.safetensors"):
        own_model.at(model(tmp_path / "m", weights=weights))


@pytest.mark.parametrize("text", ["", "{}", '{"weight_map": 3}'])
def test_an_index_that_cannot_be_read_is_refused(tmp_path, text):
    (model(tmp_path / "m") / own_model.INDEX).write_text(text)
    with pytest.raises(ModelRefused, match=r"model\.safetensors\.index\.json cannot be read"):
        own_model.at(tmp_path / "m")


def test_quantized_weights_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match="are quantized"):
        own_model.at(model(tmp_path / "m", config={"quantization_config": {"quant_method": "awq"}}))


def test_the_report_has_the_models_name(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path)
    found = own_model.at(model(tmp_path / "Qwen2.5-0.5B"))
    machine = Gpus("NVIDIA H100 80GB HBM3", 2, 81559, "580.1")
    path = found.report_path(choose("vllm073"), machine)
    assert path == tmp_path / "vllm073" / "reports" / "h100-80gb-hbm3x2-model-qwen2-5-0-5b.json"
    path = found.report_path(choose("vllm073", "3.11"), machine)
    assert path.name == "h100-80gb-hbm3x2-py311-model-qwen2-5-0-5b.json"
    assert str(tmp_path) not in json.dumps(found.as_dict()), "a report names no path of this machine"
