"""Checks of the environments that are there, by what lies in them: nothing is imported, nothing is hashed."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement

from verlock.env import installed
from verlock.env.doctor.findings import BAD, WARNING, Check, Finding, Subject, fine, of_error
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen

# Why another version than the locked one of these is worse than untidy.
KNOWN = {
    "transformers": "transformers 5 refuses torch before 2.6, and vLLM of that time uses what it dropped "
    "(https://github.com/vllm-project/vllm/issues/29686)",
    "tensordict": "tensordict before 0.6 imports ForkingPickler, which torch 2.6 no longer has "
    "(https://github.com/volcengine/verl/issues/700)",
    "ray": "vLLM fits few versions of Ray, and all nodes of a cluster must have the same "
    "(https://github.com/vllm-project/vllm/issues/16622)",
    "torch": "the compiled objects of vLLM and flash-attn load with one torch alone "
    "(https://github.com/volcengine/verl/issues/6662)",
    "vllm": "verl and vLLM fit in pairs (https://github.com/volcengine/verl/issues/3255)",
    "verl": "verl and vLLM fit in pairs (https://github.com/volcengine/verl/issues/1382)",
    "numpy": "compiled packages fit numpy 1 or numpy 2, not both",
}
_SYSTEM: Mapping[str, Any] = default_environment()  # of verlock's own Python; its version is set for each environment
_AGAIN = "`nox -s env-{name}` puts it right"
_SHOWN = 5  # of the packages that are wrong
_NEW_ABI = re.compile(rb"_ZN3c10[A-Za-z0-9_]*__cxx11")  # a symbol of torch's, as code of the new C++ ABI asks for it
_EXTRA = re.compile(r";.*\bextra\s*==")
_CUDA = re.compile(r"^cuda\b[^=]*=\s*(?P<value>\S+)", re.MULTILINE)


def _each(look: Callable[[Chosen], Iterable[Finding]]) -> Callable[[Subject], Iterator[Finding]]:
    """The check of one environment as the check of all that are there."""

    def of_all(subject: Subject) -> Iterator[Finding]:
        for chosen in subject.built:
            for found in look(chosen):
                yield Finding(found.state, f"{chosen.prefix.name}: {found.said}", found.remedy.format(name=chosen.name))
        if not subject.built:
            yield from fine("no environment is there yet")

    return of_all


def recipes(subject: Subject) -> Iterable[Finding]:
    """Recipes that cannot be read."""
    return [of_error(error) for error in subject.broken] or fine(", ".join(each.name for each in subject.chosen))


def lock(chosen: Chosen) -> Iterable[Finding]:
    """Was the environment made from the lock of today, and does it have the locked versions?"""
    if receipt.read(chosen.prefix)["digest"] != chosen.digest:
        yield Finding(
            WARNING, "the lock has changed since the environment was made", "`nox -s env-{name}` makes it again"
        )
        return
    here = {name: version for name, (version, _) in installed.packages(chosen.site).items()}
    wrong = [(pin.name, pin.version, here.get(pin.name)) for pin in chosen.pins if here.get(pin.name) != pin.version]
    wrong.sort(key=lambda each: (each[0] not in KNOWN, each[0]))
    for name, wanted, got in wrong[:_SHOWN]:
        why = f"; {KNOWN[name]}" if name in KNOWN else ""
        yield Finding(BAD, f"{name} is {got or 'missing'}, the lock has {wanted}{why}", _AGAIN)
    if len(wrong) > _SHOWN:
        yield Finding(BAD, f"{len(wrong) - _SHOWN} more packages are not as locked", _AGAIN)
    if not wrong:
        yield from fine(f"{len(chosen.pins)} packages have the locked versions")


def collisions(chosen: Chosen) -> Iterable[Finding]:
    """Do installed packages allow each other? An override of the recipe is no collision, for it is meant."""
    here = installed.packages(chosen.site)
    python: dict[str, str | Set[str]] = {
        **_SYSTEM,
        "python_version": chosen.python,
        "python_full_version": f"{chosen.python}.0",
        "extra": "",
    }
    meant = {(each["requirer"], Requirement(each["requirement"]).name) for each in chosen.data.get("override", [])}
    found = []
    for name, (_, folder) in sorted(here.items()):
        for wanted in _requirements(folder):
            other = lockfiles.normalise(wanted.name)
            if (name, other) in meant or (wanted.marker and not wanted.marker.evaluate(python)):
                continue
            version = here[other][0] if other in here else None
            if version is None or not wanted.specifier.contains(version, prereleases=True):
                if version is None and other in receipt.read(chosen.prefix)["missing"]:
                    continue
                found.append(
                    Finding(
                        BAD, f"{name} asks for {wanted.name}{wanted.specifier}, here is {version or 'none'}", _AGAIN
                    )
                )
    return found or fine("all packages allow each other")


def _requirements(folder: Path) -> Iterator[Requirement]:
    """What a package asks for without any extra. Read line by line: the library for such headers takes ten times as long."""
    try:
        head = (folder / "METADATA").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return
    for line in head.splitlines():
        if line.startswith("Requires-Dist:") and not _EXTRA.search(line):
            with contextlib.suppress(InvalidRequirement):
                yield Requirement(line.partition(":")[2].strip())


def torch_with_cuda(chosen: Chosen) -> Iterable[Finding]:
    """Is torch a build for the recipe's CUDA, and vLLM one with compiled objects? A CPU build looks the same until it runs."""
    text = (
        (chosen.site / "torch/version.py").read_text(encoding="utf-8")
        if (chosen.site / "torch/version.py").exists()
        else ""
    )
    match = _CUDA.search(text)
    cuda = match["value"].strip("'\"") if match else None
    if match and cuda != chosen.recipe.cuda.version:
        yield Finding(
            BAD,
            f"torch is a build for {'the CPU' if cuda == 'None' else f'CUDA {cuda}'}, not CUDA {chosen.recipe.cuda.version} "
            "(https://github.com/vllm-project/vllm/issues/12525)",
            _AGAIN,
        )
    elif not list((chosen.site / "vllm").glob("_C*.so")):
        yield Finding(BAD, "vLLM has no compiled objects (vllm/_C*.so): a build for the CPU, or none at all", _AGAIN)
    else:
        yield from fine(f"torch is a build for CUDA {cuda}" if cuda else "vLLM has its compiled objects")


def flash_attention(chosen: Chosen) -> Iterable[Finding]:
    """Is flash-attn there, and built with torch's C++ ABI? Another one ends in `undefined symbol` at import."""
    objects = sorted(chosen.site.glob("flash_attn_2_cuda*.so"))
    wanted = [artefact for artefact in chosen.recipe.artefact if artefact.package == "flash-attn"]
    if not objects:
        if not wanted:
            return fine("not part of the recipe")
        return [
            Finding(
                WARNING,
                "flash-attn is missing: verl's actor imports it",
                "put its wheel into a folder, name that in VERLOCK_ARTEFACTS, and run `nox -s env-{name}`",
            )
        ]
    with objects[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        new = _NEW_ABI.search(content, 0, 1 << 24) is not None  # names of symbols stand near the beginning
    if new != chosen.recipe.torch.cxx11abi:
        have, want = (f"cxx11abi{str(each).upper()}" for each in (new, chosen.recipe.torch.cxx11abi))
        return [
            Finding(
                BAD,
                f"flash-attn is built with {have}, torch with {want}: its import ends in `undefined symbol` "
                "(https://github.com/Dao-AILab/flash-attention/issues/931)",
                "`nox -s env-{name} -- --site-wheel none` takes the locked wheel, `nox -s build-flash-attn -- {name}` builds one",
            )
        ]
    return fine("flash-attn has torch's C++ ABI")


def source(chosen: Chosen) -> Iterable[Finding]:
    """A variant built from a git commit: was it built on the compiled wheel that the lock names?"""
    built = chosen.recipe.source
    if built is None:
        return fine("from a released wheel")
    got = receipt.read(chosen.prefix)["packages"].get(built.package, {}).get("sha256", "")
    if got != chosen.sources["wheel"]["sha256"]:
        return [
            Finding(
                BAD,
                f"{built.package} was built from something else than commit {built.commit[:12]} and the compiled objects of "
                f"{built.precompiled.filename} (https://github.com/vllm-project/vllm/issues/16217)",
                _AGAIN,
            )
        ]
    return fine(f"{built.package} is commit {built.commit[:12]} on the locked compiled objects")


CHECKS = (
    Check("recipes", recipes),
    Check("lock", _each(lock)),
    Check("collisions", _each(collisions)),
    Check("CUDA build", _each(torch_with_cuda)),
    Check("flash-attn", _each(flash_attention)),
    Check("source", _each(source)),
)
