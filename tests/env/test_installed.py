"""What is installed, and what each of its files has to be."""

from __future__ import annotations

import json

import pytest
import toy

from verlock.env import installed
from verlock.env.installed import Expected
from verlock.variant import receipt


@pytest.fixture
def site(tmp_path):
    """The site-packages of an empty prefix."""
    path = tmp_path / "prefix/lib/python3.10/site-packages"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def prefix(site):
    return site.parents[2]


def sealed(**more):
    """As much of a receipt as is asked."""
    return {"files": {}, "editable": False, "patches": [], **more}


def conda(prefix, name, *listed, **more):
    """conda-meta's entry of one package; returns its file."""
    path = prefix / f"conda-meta/{name}-1.0-0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"name": name, "paths_data": {"paths": list(listed)}, **more}))
    return path


def test_packages_are_found_by_their_normalised_names(site):
    info = toy.install(site, "Odd_Name.x", "1.0+cu12", {"odd.py": b""})
    toy.install(site, "torch", "2.5.1", {})
    (site / "torch").mkdir()
    (site / "legacy.egg-info").mkdir()
    found = installed.packages(site)
    assert found == {"odd-name-x": ("1.0+cu12", info), "torch": ("2.5.1", site / "torch-2.5.1.dist-info")}


def test_nothing_is_installed_where_there_is_no_site(site):
    assert installed.packages(site) == {} == installed.packages(site / "nowhere")
    assert installed.overruled(site / "nowhere") == set()


def test_the_hash_of_a_record(site):
    info = toy.install(site, "torch", "2.5.1", {})
    assert installed.record_sha256(info) == toy.sha256((info / "RECORD").read_bytes())
    (info / "RECORD").unlink()
    assert installed.record_sha256(info) == ""


def test_records_of_the_conda_layer_are_those_of_its_packages(prefix):
    assert installed.conda_records(prefix) == []
    paths = [conda(prefix, name) for name in ("b", "a-b", "a")]
    (prefix / "conda-meta/state").write_text("{}")
    (prefix / "conda-meta/state.json").write_text("{}")
    assert installed.conda_records(prefix) == sorted(paths)


def test_files_of_a_package_are_those_of_its_record(prefix, site):
    info = toy.install(site, "torch", "2.5.1", {"torch/a b, c.py": b"a", "../../../bin/torch": b"b"}, ["x.pyc", "", ""])
    expected, unreadable = installed.expectations(prefix, site, sealed())
    assert unreadable == {}
    assert expected == {
        f"{site}/torch/a b, c.py": Expected("torch", sha256=toy.sha256(b"a")),
        f"{prefix}/bin/torch": Expected("torch", sha256=toy.sha256(b"b")),
        f"{info}/METADATA": Expected("torch", sha256=toy.sha256(b"Name: x\n")),
        f"{info}/RECORD": Expected("torch"),
    }


def test_files_of_the_base_are_those_of_the_receipt(prefix, site):
    expected, _ = installed.expectations(prefix, site, sealed(files={"etc/a": "ab" * 32, "lib64": "link:lib"}))
    assert expected == {
        f"{prefix}/etc/a": Expected("base", sha256="ab" * 32),
        f"{prefix}/lib64": Expected("base", link="lib"),
    }


def test_files_of_the_conda_layer_have_the_hash_that_they_have_in_this_prefix(prefix, site):
    listed = [
        {"_path": "bin/pip", "path_type": "hardlink", "sha256": "a" * 64, "sha256_in_prefix": "b" * 64},
        {"_path": "bin/x", "path_type": "hardlink", "sha256": "c" * 64},
        {"_path": "bin/link", "path_type": "softlink", "sha256": "d" * 64},
        {"_path": "lib/x.pyc", "path_type": "hardlink", "sha256": "e" * 64},
        {"_path": "lib/any"},
    ]
    path = conda(prefix, "pip", *listed)
    expected, unreadable = installed.expectations(prefix, site, sealed())
    assert unreadable == {}
    assert expected == {
        f"{prefix}/bin/pip": Expected("conda:pip", sha256="b" * 64),
        f"{prefix}/bin/x": Expected("conda:pip", sha256="c" * 64),
        f"{prefix}/bin/link": Expected("conda:pip"),
        f"{prefix}/lib/any": Expected("conda:pip"),
        str(path): Expected("conda:pip"),
    }


def test_a_record_of_the_conda_layer_is_not_read(prefix, site):
    """It is of the machine that built the package: conda-meta alone knows what this prefix was given."""
    info = toy.install(site, "pip", "25.0", {"pip/x.py": b"x"})
    (info / "RECORD").write_text("pip/x.py,md5=abc,1\n")
    conda(prefix, "pip", {"_path": str((info / "METADATA").relative_to(prefix)), "sha256": "a" * 64})
    expected, unreadable = installed.expectations(prefix, site, sealed())
    assert unreadable == {} and f"{site}/pip/x.py" not in expected


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "x", "paths_data": {"paths": [{}]}}', "\udcff"])
def test_a_list_of_conda_that_cannot_be_read_is_named_and_the_rest_is_read(prefix, site, content):
    bad = conda(prefix, "bad")
    bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    good = conda(prefix, "good", {"_path": "x", "sha256": "a" * 64})
    expected, unreadable = installed.expectations(prefix, site, sealed())
    assert unreadable.keys() == {bad} and unreadable[bad]
    assert {f"{prefix}/x", str(good)} <= expected.keys()


@pytest.mark.parametrize(
    "content", [b"a.py,md5=abc,1\n", b"a.py\n", b"a.py,sha256=A,1\n", b"\xff,,\n", b'"' + b"a" * 200_000, None]
)
def test_a_record_that_cannot_be_read_is_named_and_the_rest_is_read(prefix, site, content):
    bad = toy.install(site, "bad", "1", {}) / "RECORD"
    bad.unlink()
    if content is not None:
        bad.write_bytes(content)
    toy.install(site, "good", "1", {"good.py": b""})
    expected, unreadable = installed.expectations(prefix, site, sealed())
    assert unreadable.keys() == {bad} and unreadable[bad]
    assert f"{site}/good.py" in expected


def test_a_patched_file_has_the_hash_of_its_patch(prefix, site):
    toy.install(site, "vllm", "0.7.3", {"vllm/a.py": b"as released"})
    touches = [{"path": "vllm/a.py", "before": "a" * 64, "after": "b" * 64}, {"path": "vllm/new.py", "after": "c" * 64}]
    patches = [{"file": "0001-X.patch", "package": "vllm", "touches": touches}]
    expected, _ = installed.expectations(prefix, site, sealed(patches=patches))
    assert expected[f"{site}/vllm/a.py"] == Expected("vllm", sha256="b" * 64, patch="0001-X.patch")
    assert expected[f"{site}/vllm/new.py"] == Expected("vllm", sha256="c" * 64, patch="0001-X.patch")


def test_of_two_packages_with_one_file_the_last_by_name_owns_it(prefix, site):
    script = prefix / "bin/fastapi"
    toy.install(site, "fastapi_cli", "0.0.7", {"../../../bin/fastapi": b"from fastapi_cli\n"})
    assert installed.overruled(site) == set()
    toy.install(site, "fastapi", "0.115.12", {"../../../bin/fastapi": b"from fastapi\n"})  # written last, by chance
    assert installed.overruled(site) == {"fastapi-cli"}
    expected, _ = installed.expectations(prefix, site, sealed())
    assert expected[str(script)] == Expected("fastapi-cli", sha256=toy.sha256(b"from fastapi_cli\n"))
    script.write_bytes(b"from fastapi_cli\n")
    assert installed.overruled(site) == set()


def test_one_file_that_two_packages_bring_alike_is_no_dispute(prefix, site):
    for name in ("a", "b"):
        toy.install(site, name, "1", {"namespace/__init__.py": b"same"})
    (site / "namespace/__init__.py").write_bytes(b"damaged")
    assert installed.overruled(site) == set(), "damage is for verify to find"


def test_empty_folders_that_wheels_bring_into_their_packages_belong_to_those(site):
    """As tokenspeed_triton does: no RECORD lists them, and Python imports them."""
    toy.install(site, "Big", "1.0", {"big/__init__.py": b"", "big/sub/deep.py": b""})
    for name in ("big/hooks", "big/sub/more", "big/has-no-name.x", "stray", "stray/sub", "big/__pycache__/odd"):
        (site / name).mkdir(parents=True)
    walked = list(receipt.walk(site.parent, byte_code=True))
    there = [f"{site}/{name}" for name in ("big/hooks", "big/sub/more", "stray", "stray/sub")]
    assert sorted(installed.empty_folders(site, walked)) == there
    found = installed.folders_of_wheels(site, walked, installed.recorded(site))
    assert found == {f"{site}/big/hooks": "big", f"{site}/big/sub/more": "big"}, "a stray one is nobody's"


def test_a_folder_of_a_wheel_is_expected(prefix, site):
    expected, _ = installed.expectations(prefix, site, sealed(folders={"lib/x": "big"}))
    assert expected == {str(prefix / "lib/x"): Expected("big")}
