"""What the pages say of each variant, from recipes/, locks/ and certificates/."""

from __future__ import annotations

import re
from collections import defaultdict
from urllib.parse import urlsplit

from docs.make.markdown import code, table, words
from verlock.proving import status
from verlock.shipping import launch
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen, choose, names
from verlock.variant.recipe import Patch, Recipe

_PACKAGES = ("transformers", "ray", "tensordict", "numpy")  # those that a training script meets


def ordered() -> list[Chosen]:
    """Every variant with its first Python, by its version of vLLM."""
    return [choose(name) for name in status.by_version()]


def status_table() -> str:
    """The README's table, with links as docs/variants.md needs them."""
    return status.as_markdown("limits.md")


def limits() -> str:
    """A section for each variant that has known limits."""
    parts = []
    for chosen in ordered():
        if known := status.limits_of(chosen.name):
            lines = [f"- {words(each.says)} ({_from_docs(each.link)})" for each in known]
            parts.append(f"### {chosen.name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _from_docs(link: str) -> str:
    """A Markdown link to a file of the clone, from a page of docs/."""
    return re.sub(r"\]\((?!https://)", "](../", link)


def sections() -> str:
    """A section for each variant: what is in it and why, what it needs, its patches."""
    return "\n\n".join(_section(chosen) for chosen in ordered())


def _section(chosen: Chosen) -> str:
    recipe = chosen.recipe
    rows = [
        ("Digest", ", ".join(f"{code(each.digest[:12])} (Python {each.python})" for each in chosen.pythons())),
        ("vLLM", f"{recipe.vllm.version}, engine {recipe.vllm.engine}"),
        ("verl", f"{recipe.verl.version}. {recipe.verl.reason}"),
        (
            "torch",
            f"{_version(chosen, 'torch')}, CUDA {recipe.cuda.version}, NVIDIA driver {recipe.cuda.min_driver} or newer",
        ),
        ("System", f"glibc {recipe.platform.glibc} or newer, {recipe.platform.disk / 1e9:.0f} GB of disk"),
        *(
            [("GPUs", f"compute capability {', '.join(recipe.torch.capabilities)}")]
            if recipe.torch.capabilities
            else []
        ),
        ("Cut-off", f"{recipe.cutoff.date}. {recipe.cutoff.reason}"),
        *([("Commit", f"{code(recipe.source.commit[:12])}. {recipe.source.reason}")] if recipe.source else []),
        *(("Set aside", f"{each.said}. {each.reason} ([seen]({each.link}))") for each in recipe.override),
        *((each.package, f"{each.version}. {_artefact(chosen, recipe)}") for each in recipe.artefact),
    ]
    lines = [f"### {chosen.name}", "", f"{words(recipe.summary)}.", "", table(("", ""), rows)]
    if recipe.patch:
        lines += ["", table(("patch", "why", "upstream"), map(_patch, recipe.patch))]
    return "\n".join(lines)


def _artefact(chosen: Chosen, recipe: Recipe) -> str:
    fits = [
        each.python
        for each in chosen.pythons()
        if any(art.file_for(recipe.torch, each.python) for art in recipe.artefact)
    ]
    return (
        f"A release wheel is locked for Python {', '.join(fits)}."
        if fits
        else "No release wheel is known for this torch."
    )


def _patch(patch: Patch) -> tuple[str, str, str]:
    title = patch.file.removesuffix(".patch").replace("-", " ")
    link = f"[{'fixed there' if patch.upstream else 'issue'}]({patch.upstream_link})" if patch.upstream_link else ""
    return words(title), words(patch.why), link


def _version(chosen: Chosen, package: str) -> str:
    return next((pin.version for pin in chosen.pins if pin.name == package), "")


def training() -> str:
    """A table of what each variant asks of a training script, and below it why, once for all that have the same reason."""
    chosen = ordered()
    head = ("variant", "verl", "vLLM", "flags that verl needs", "set inside the environment")
    why: dict[str, list[str]] = defaultdict(list)
    for each in chosen:
        if each.recipe.verl.flags_reason:
            why[each.recipe.verl.flags_reason].append(code(each.name))
    reasons = [f"- {words(reason)} ({', '.join(of)})" for reason, of in why.items()]
    return "\n".join(
        [table(head, map(_training, chosen)), "", *(["Why these flags:", "", *reasons] if reasons else [])]
    )


def _training(chosen: Chosen) -> tuple[str, ...]:
    recipe = chosen.recipe
    settings = [code(f"{name}={value}") for name, value in launch.settings(chosen).items()]
    return (
        code(chosen.name),
        recipe.verl.version,
        f"{status.vllm_said(recipe)} ({recipe.vllm.engine})",
        "<br>".join(map(code, recipe.verl.flags)) or "none",
        "<br>".join(settings) or "nothing",
    )


def upgrading() -> str:
    """A table of what changes from pair to pair, a line for each variant; its flags are counted, with a link to them."""
    head = ("variant", "vLLM", "engine", "verl", "torch", "CUDA", "oldest driver", *_PACKAGES, "flags")
    return table(head, map(_pair, ordered()))


def _pair(chosen: Chosen) -> tuple[str, ...]:
    recipe = chosen.recipe
    return (
        code(chosen.name),
        status.vllm_said(recipe),
        recipe.vllm.engine,
        recipe.verl.version,
        _version(chosen, "torch").partition("+")[0],
        recipe.cuda.version,
        recipe.cuda.min_driver,
        *(_version(chosen, package) for package in _PACKAGES),
        f"[{len(recipe.verl.flags)}](training.md#each-variant)" if recipe.verl.flags else "none",
    )


def hosts() -> str:
    """A table of the hosts that recipes and locks name, what each is for and for which variants."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for chosen in ordered():
        recipe = chosen.recipe
        records = lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)
        asked = {("conda packages", _host(each["url"])) for each in records}
        asked |= {(f"{art.package}'s release wheel", _host(file.url)) for art in recipe.artefact for file in art.file
                  if art.file_for(recipe.torch, file.python) == file}  # fmt: skip
        asked |= {(f"the commit of {recipe.source.package}", _host(recipe.source.url))} if recipe.source else set()
        for each in sorted(asked):
            found[each].append(chosen.name)
    everywhere = len(names())
    rows = [(code(host), what, "all variants" if len(of) == everywhere else ", ".join(map(code, of)))
            for (what, host), of in found.items()]  # fmt: skip
    return table(("host", "for", "asked by"), rows)


def _host(url: str) -> str:
    return urlsplit(url).netloc
