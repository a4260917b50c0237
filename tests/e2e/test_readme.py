"""The README and the pages as a newcomer reads them: their shell code is run as written, in a fresh clone, with an empty home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import written

from verlock import paths
from verlock.variant.chosen import choose

README = paths.ROOT / "README.md"
BLOCKS = list(written.shell_blocks(README))
GPU = "needs a GPU"
NEEDS = (  # what is not run here; what can be without a GPU or a CUDA compiler has e2e tests of its own
    *(GPU, "needs a CUDA compiler", "needs a Ray", "needs minutes and the package index"),
    *("needs GitHub, or a mirror of verl", "needs a medium with room"),
)
PAGES = [page for page in sorted((paths.ROOT / "docs").glob("*.md")) if any(written.shell_blocks(page))]
VARIANT = "vllm073"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Runs shell code in a clone of this very working tree, with a home that holds a Python's front and nothing else."""
    folder = tmp_path_factory.mktemp("reader")
    clone, home = folder / "clone", folder / "home"
    home.mkdir()
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (paths.ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.ROOT / name, clone / name)
    kept = ("PATH", "LANG", "PYENV_ROOT", "SSL_CERT_FILE", "PIP_CERT", "HTTPS_PROXY", "NO_PROXY")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    variables |= {"HOME": str(home), "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv")}
    for found in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        if found.exists():  # how this machine reaches an index is no part of the test
            variables.setdefault("PIP_CONFIG_FILE", str(found))
    if (pyenv := Path.home() / ".pyenv").is_dir():
        variables.setdefault("PYENV_ROOT", str(pyenv))
    # `python3` is the one that this test runs on
    front = home / "front"
    front.mkdir()
    (front / "python3").symlink_to(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    variables["PATH"] = f"{home}/nox/bin:{front}:{variables['PATH']}"

    def run(code, *, seconds=900):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=clone, env=variables, capture_output=True, text=True, check=False, timeout=seconds,
        )  # fmt: skip

    return run


def test_every_block_is_run_here_or_says_why_not():
    assert {above for _, above in BLOCKS} == {"", GPU}
    assert len(BLOCKS) == 6


@pytest.mark.slow  # it installs verlock's tools twice over, and 7 GB from uv's cache
def test_the_readmes_code_runs_as_it_stands_but_for_what_needs_a_gpu(reader):
    for code, above in BLOCKS:
        if above or "pipx" in code:  # one way to install nox is enough
            continue
        done = reader(code)
        assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    chosen = choose(VARIANT)
    assert f"{chosen.recipe.vllm.version} {chosen.recipe.verl.version}" in done.stdout.splitlines()


@pytest.mark.slow  # after the one above; verl's imports take half a minute
def test_verl_takes_the_options_of_the_training_command(reader):
    """Composed by verl's own configuration and not run: what Hydra does not know, it refuses."""
    (code,) = [code for code, above in BLOCKS if above == GPU and "main_ppo" in code]
    shown = reader(f"{code.rstrip()} --cfg job")
    assert shown.returncode == 0, shown.stderr[-3000:]
    for line in (
        "adv_estimator: grpo",
        "enforce_eager: false",
        "free_cache_engine: false",
        "n_gpus_per_node: 8",
        "'n': 5",
    ):
        assert line in shown.stdout.lower(), line
    wrong = reader(f"{code.rstrip().replace('total_epochs', 'total_epoch')} --cfg job")
    assert wrong.returncode != 0 and "total_epoch" in wrong.stderr


@pytest.mark.slow  # after the first: in its environment, and one more for another Python
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_the_pages_runs_as_it_stands(reader, page):
    for code, above in written.shell_blocks(page):
        if above:
            assert above in NEEDS, above
            continue
        done = reader(code)
        assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow  # after the first: without its environment there is nothing to prove
def test_without_a_gpu_the_smoke_run_says_so(reader):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here: the smoke run is a test of its own")
    (code,) = [code for code, above in BLOCKS if above == GPU and "smoke" in code]
    done = reader(code)
    assert done.returncode == 50 and "nvidia-smi" in done.stderr
