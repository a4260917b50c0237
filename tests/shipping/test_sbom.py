"""The list of what is on disk: what it says of each kind of package, and that it is valid CycloneDX."""

from __future__ import annotations

import json

import pytest
import toy
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from verlock import cli
from verlock.shipping import sbom
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import choose

CREATED = "2026-01-02T03:04:05+00:00"


class Sealed:
    """A prefix with a receipt, in which nothing but metadata lies: enough for the list, which is not what verifies."""

    def __init__(self, chosen):
        self.chosen = chosen
        self.receipt = {
            **toy.SEALED, "schema": receipt.SCHEMA, "variant": chosen.name, "python": chosen.python, "digest": chosen.digest,
            "prefix": str(chosen.prefix), "created": CREATED,
            "base": {"kind": "host", "version": "3.10.13", "interpreter": {"/usr/bin/python3.10": "b" * 64}},
        }  # fmt: skip

    def install(self, name, version, *metadata):
        info = toy.install(self.chosen.site, name.replace("-", "_"), version, {})
        lines = [f"Name: {name}", f"Version: {version}", *metadata]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return info

    def conda(self, **record):
        meta = self.chosen.prefix / "conda-meta"
        meta.mkdir(parents=True, exist_ok=True)
        path = meta / f"{record['name']}-{record['version']}-{record['build']}.json"
        path.write_text(json.dumps({"paths_data": {"paths": []}, **record}))

    def listed(self):
        receipt.write(self.chosen.prefix, self.receipt)
        text = sbom.of(self.chosen)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        content = json.loads(text)
        return content, {each["name"]: each for each in content["components"]}


@pytest.fixture
def sealed(clone):
    return lambda variant: Sealed(choose(variant))


def properties(component):
    return {each["name"].removeprefix("verlock:"): each["value"] for each in component["properties"]}


def sums(component):
    return {each["alg"]: each["content"] for each in component["hashes"]}


def test_a_wheel_of_the_index_has_its_address_hash_and_record(sealed):
    prefix = sealed("vllm073")
    info = prefix.install("numpy", "1.26.4", "Requires-Dist: six", "Requires-Dist: odd ; extra == 'x'")
    prefix.install("six", "1.17.0")
    content, packages = prefix.listed()
    (locked,) = [
        each
        for each in lockfiles.files(prefix.chosen.locks)[lockfiles.REQUIREMENTS]["files"]
        if each["package"] == "numpy"
    ]
    assert packages["numpy"]["purl"] == "pkg:pypi/numpy@1.26.4" and sums(packages["numpy"]) == {
        "SHA-256": locked["sha256"]
    }
    record = toy.sha256((info / "RECORD").read_bytes())
    assert properties(packages["numpy"]) == {"file": locked["filename"], "record": f"sha256:{record}"}
    needs = {each["ref"]: each.get("dependsOn", []) for each in content["dependencies"]}
    assert needs["pkg:pypi/numpy@1.26.4"] == ["pkg:pypi/six@1.17.0"]
    assert needs["verlock:vllm073"] == ["pkg:pypi/numpy@1.26.4", "pkg:pypi/six@1.17.0", "verlock:base"]


def test_the_whole_names_the_digest_the_base_and_what_is_missing(sealed):
    prefix = sealed("vllm073")
    prefix.install("six", "1.17.0")
    prefix.receipt["missing"] = {"flash-attn": "not today"}
    content, packages = prefix.listed()
    root = content["metadata"]["component"]
    assert properties(root) == {
        "digest": prefix.chosen.digest, "python": "3.10", "base": "host 3.10.13", "missing:flash-attn": "not today",
    }  # fmt: skip
    assert content["metadata"]["timestamp"] == CREATED
    assert sums(packages["cpython"]) == {"SHA-256": "b" * 64}
    assert content["serialNumber"].startswith("urn:uuid:") and not content["serialNumber"].endswith("0" * 12)


def test_the_serial_number_follows_from_the_content(sealed):
    prefix = sealed("vllm073")
    prefix.install("six", "1.17.0")
    first, again = prefix.listed()[0], prefix.listed()[0]
    prefix.install("numpy", "1.26.4")
    assert first == again and first["serialNumber"] != prefix.listed()[0]["serialNumber"]


def test_a_build_from_git_names_commit_ancestor_and_patches(sealed):
    prefix = sealed("v1")
    prefix.install("vllm", prefix.chosen.recipe.source.version)
    (vllm,) = [each for each in prefix.listed()[1].values() if each["name"] == "vllm"]
    commit, wheel = prefix.chosen.recipe.source.commit, prefix.chosen.sources["wheel"]
    assert vllm["purl"].startswith("pkg:generic/vllm@0.7.4") and commit in vllm["purl"]
    assert sums(vllm) == {"SHA-256": wheel["sha256"]} and properties(vllm)["file"] == wheel["filename"]
    pedigree = vllm["pedigree"]
    assert [each["uid"] for each in pedigree["commits"]] == [commit]
    assert sums(pedigree["ancestors"][0]) == {"SHA-256": prefix.chosen.recipe.source.precompiled.sha256}
    texts = [prefix.chosen.recipe.patch_path(each).read_text() for each in prefix.chosen.recipe.patch]
    assert sorted(each["diff"]["text"]["content"] for each in pedigree["patches"]) == sorted(texts)
    kinds = {each["resolves"][0]["name"][:4]: each["type"] for each in pedigree["patches"]}
    assert kinds == {"0001": "backport", "0002": "unofficial"}


def test_a_patched_wheel_has_its_patches_and_an_unpatched_one_none(sealed):
    prefix = sealed("vllm073")
    prefix.install("vllm", "0.7.3")
    prefix.install("six", "1.17.0")
    packages = prefix.listed()[1]
    assert len(packages["vllm"]["pedigree"]["patches"]) == 1 and "pedigree" not in packages["six"]


def test_a_site_wheel_is_not_taken_for_a_release(sealed):
    prefix = sealed("vllm073")
    prefix.install("flash-attn", "2.8.3")
    prefix.receipt["site_wheels"] = {"flash-attn": {"file": "own.whl", "version": "2.8.3", "sha256": "c" * 64}}
    own = prefix.listed()[1]["flash-attn"]
    assert own["purl"].startswith("pkg:generic/flash-attn@2.8.3?checksum=sha256")
    assert sums(own) == {"SHA-256": "c" * 64} and properties(own)["origin"] == "a site wheel, the user's own"
    prefix.receipt["site_wheels"] = {}
    released = prefix.listed()[1]["flash-attn"]
    artefact = prefix.chosen.recipe.artefact[0].file_for(prefix.chosen.recipe.torch, "3.10")
    assert sums(released) == {"SHA-256": artefact.sha256} and released["purl"] == "pkg:pypi/flash-attn@2.8.3"


def test_a_conda_package_has_its_build_channel_and_hashes(sealed):
    prefix = sealed("vllm073")
    info = prefix.install("pip", "25.0")
    own = str((info / "METADATA").relative_to(prefix.chosen.prefix))
    prefix.conda(
        name="pip", version="25.0", build="pyh_0", sha256="d" * 64, md5="e" * 32, subdir="noarch", license="MIT AND BSD-3-Clause",
        channel="https://conda.anaconda.org/conda-forge", url="https://conda.anaconda.org/conda-forge/noarch/pip-25.0-pyh_0.conda",
        depends=["python >=3.8"], paths_data={"paths": [{"_path": own}]},
    )  # fmt: skip
    prefix.conda(name="python", version="3.10.16", build="h_0", subdir="linux-64", license="Python-2.0")
    content, _ = prefix.listed()
    found = {each["purl"].partition("?")[0]: each for each in content["components"]}
    assert set(found) == {"pkg:conda/pip@25.0", "pkg:conda/python@3.10.16", "pkg:pypi/pip@25.0"}
    pip = found["pkg:conda/pip@25.0"]
    assert pip["purl"].partition("?")[2] == "build=pyh_0&channel=conda-forge&subdir=noarch&type=conda"
    assert sums(pip) == {"SHA-256": "d" * 64, "MD5": "e" * 32}
    assert pip["licenses"] == [{"expression": "MIT AND BSD-3-Clause", "acknowledgement": "declared"}]
    assert properties(found["pkg:pypi/pip@25.0"])["origin"] == "a part of the conda package"
    needs = {each["ref"]: each.get("dependsOn", []) for each in content["dependencies"]}
    assert needs[pip["bom-ref"]] == [found["pkg:conda/python@3.10.16"]["bom-ref"]]


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        (["License-Expression: Apache-2.0"], [("id", "Apache-2.0")]),
        (["License: MIT", "Classifier: License :: OSI Approved :: MIT License"], [("id", "MIT")]),
        (["Classifier: License :: OSI Approved :: BSD License"], [("name", "BSD License")]),
        (["License: " + "long " * 40, "Classifier: License :: OSI Approved :: MIT License"], [("name", "MIT License")]),
        (["License: CC0-1.0 OR Apache-2.0"], [("expression", "CC0-1.0 OR Apache-2.0")]),
        (["License: UNKNOWN"], []),
        ([], []),
    ],
)
def test_licences_are_those_that_the_package_declares(sealed, metadata, wanted):
    prefix = sealed("vllm073")
    prefix.install("six", "1.17.0", *metadata)
    licences = [each.get("license", each) for each in prefix.listed()[1]["six"].get("licenses", [])]
    assert [(key, each[key]) for each in licences for key in ("id", "name", "expression") if key in each] == wanted


def test_a_damaged_environment_has_no_list(sealed, tmp_path, capsys):
    prefix = sealed("vllm073")
    prefix.install("six", "1.17.0")
    receipt.write(prefix.chosen.prefix, prefix.receipt)
    assert cli.main(["sbom", "vllm073", "--output", str(tmp_path / "bom.json")]) == 42
    assert not (tmp_path / "bom.json").exists() and capsys.readouterr().out == ""
