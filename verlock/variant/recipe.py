"""Recipes: how a variant differs from a plain install, as data.

`recipes/<variant>/recipe.toml`, with the files of `recipes/common/` that it includes, is read into the models below.
`recipes/schema.json` is generated from them, so that an editor completes and checks such a file while it is written. Nothing
here knows any variant by name. Which fields the digest covers stands in `verlock.variant.digest`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from verlock import paths
from verlock.errors import RecipeError
from verlock.variant import recipe_file

SCHEMA = paths.RECIPES / "schema.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
PythonMinor = Annotated[str, Field(pattern=r"^3\.\d+$", examples=["3.10"])]
DottedVersion = Annotated[str, Field(pattern=r"^\d+(\.\d+)+$")]
Link = Annotated[str, Field(pattern=r"^https://")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cutoff(_Model):
    """The pip layer sees nothing uploaded, the conda layer nothing built, at or after 00:00 UTC of this day."""

    date: date
    reason: str
    link: Link | None = None


class Vllm(_Model):
    """The rollout engine, and what must be set for it."""

    version: str
    engine: Literal["V0", "V1"] = Field(
        description="the engine that must really run; smoke reads it from the live object"
    )
    environment: dict[str, str] = Field(default={}, description="environment variables to set before vLLM is imported")
    llm: dict[str, Any] = Field(
        default={}, description="arguments of vllm.LLM beyond the usual ones, for a colocated engine"
    )
    sleep_mode: bool = Field(description="LLM(enable_sleep_mode=True) frees the GPU between rollouts")
    cuda_graphs: bool = Field(description="enforce_eager=False works with sleep mode under external_launcher")
    compiles: bool = Field(description="the engine compiles kernels at run time, so a C compiler must be there")


class Verl(_Model):
    """The trainer at the version that fits the engine."""

    version: str
    reason: str
    link: Link | None = None
    flags: list[str] = Field(
        default=[], description="Hydra overrides for verl.trainer.main_ppo that this version needs"
    )
    flags_reason: str = ""


class Torch(_Model):
    """The torch that the lock pins, as far as wheels built against it must know it."""

    version: DottedVersion = Field(description="major.minor", examples=["2.5"])
    cxx11abi: bool = Field(
        description="torch.compiled_with_cxx11_abi(): wheels built with the other C++ ABI do not load"
    )
    capabilities: list[DottedVersion] = Field(
        default=[],
        description="compute capabilities of the kernels in torch's wheel, `torch._C._cuda_getArchFlags()`; empty where nobody "
        "looked",
        examples=[["8.0", "9.0"]],
    )
    reason: str
    link: Link | None = None


class Cuda(_Model):
    """The CUDA runtime inside the wheels, and the oldest driver that runs it."""

    version: DottedVersion
    min_driver: DottedVersion
    reason: str
    link: Link | None = None


class Platform(_Model):
    """What the locks are solved for: the virtual packages of the conda layer, and preflight's demands."""

    subdir: Literal["linux-64"] = "linux-64"
    glibc: DottedVersion
    linux: DottedVersion
    disk: int = Field(gt=0, description="bytes an environment takes when nothing is cached")
    reason: str


class Sdist(_Model):
    """A package of the pip layer that has no wheel and is built from its locked sdist."""

    package: str
    reason: str
    link: Link | None = None


class Prerelease(_Model):
    """A package of which the lock may pin a pre-release; no other pre-release enters a lock."""

    package: str
    reason: str
    link: Link | None = None


class Override(_Model):
    """A requirement of a locked package that this variant sets aside: it is locked as if that package did not ask for it."""

    requirer: str = Field(description="the package that asks", examples=["verl"])
    requirement: str = Field(description="what it asks, as its metadata has it", examples=["numpy<2.0.0"])
    reason: str
    link: Link

    @field_validator("requirement")
    @classmethod
    def _is_requirement(cls, value: str) -> str:
        from packaging.requirements import Requirement

        Requirement(value)  # InvalidRequirement is a ValueError
        return value

    @property
    def said(self) -> str:
        """What is set aside, for people."""
        return f"{self.requirer} asks for {self.requirement}"


class ArtefactFile(_Model):
    """One wheel of an artefact, and the environments it fits."""

    torch: DottedVersion
    cxx11abi: bool
    python: PythonMinor
    url: Link
    sha256: Sha256


class ArtefactSdist(_Model):
    """The artefact's own source, on the index: `build-flash-attn` builds it, `env` never does."""

    filename: str
    sha256: Sha256


class Artefact(_Model):
    """A package from outside the index, whose wheels are chosen by torch, C++ ABI and Python."""

    package: str
    version: str
    file: list[ArtefactFile] = Field(min_length=1)
    sdist: ArtefactSdist | None = None
    optional: bool = True
    reason: str
    link: Link | None = None

    def file_for(self, torch: Torch, python: str) -> ArtefactFile | None:
        """The wheel for this torch and this Python; None where none is known."""
        wanted = (torch.version, torch.cxx11abi, python)
        return next((each for each in self.file if (each.torch, each.cxx11abi, each.python) == wanted), None)


class Precompiled(_Model):
    """The wheel whose compiled objects go into a source build."""

    package: str
    version: str
    filename: str
    sha256: Sha256
    size: int = Field(gt=0, description="bytes")
    reason: str


class Source(_Model):
    """A package built from one git commit."""

    package: str
    version: str = Field(description="the version the built wheel carries")
    url: Link
    commit: Sha1
    tree: Sha1
    subject: str
    date: date
    precompiled: Precompiled
    reason: str
    link: Link | None = None


class Patch(_Model):
    """One file of patches/, applied with `git apply` and no fuzz."""

    file: str = Field(pattern=r"^\d{4}-[A-Za-z0-9][A-Za-z0-9_.-]*\.patch$")
    package: str
    why: str
    upstream: Sha1 | None = Field(default=None, description="the commit that made it unnecessary")
    upstream_link: Link | None = None


class Accepted(_Model):
    """A known vulnerability of a package that this variant has all the same; `audit` fails for any other."""

    package: str
    id: str = Field(description="any of its names", examples=["CVE-2025-0001", "GHSA-aaaa-bbbb-cccc", "PYSEC-2025-1"])
    reason: str = Field(min_length=1)
    date: date
    link: Link | None = None


class Recipe(_Model):
    """One variant."""

    summary: str
    include: list[str] = Field(
        default=[], description="files of recipes/common/, without .toml, that belong to this recipe"
    )
    python: list[PythonMinor] = Field(min_length=1, description="Pythons with a lock; the first is the default")
    cutoff: Cutoff
    vllm: Vllm
    verl: Verl
    torch: Torch
    cuda: Cuda
    platform: Platform
    sdist: list[Sdist] = []
    prerelease: list[Prerelease] = []
    override: list[Override] = []
    artefact: list[Artefact] = []
    source: Source | None = None
    patch: list[Patch] = []
    accepted: list[Accepted] = []

    _name: str = ""
    _folder: Path = Path()

    @property
    def name(self) -> str:
        """The variant's name: the name of its folder."""
        return self._name

    @property
    def folder(self) -> Path:
        """`recipes/<variant>`."""
        return self._folder

    def patch_path(self, patch: Patch) -> Path:
        """Where a patch file is."""
        return self.folder / "patches" / patch.file

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for artefact in self.artefact:
            fits = [(each.torch, each.cxx11abi, each.python) for each in artefact.file]
            if twice := {each for each in fits if fits.count(each) > 1}:
                torch, abi, python = min(twice)
                raise ValueError(
                    f"artefact {artefact.package} has two files for torch {torch}, cxx11abi {abi}, Python {python}"
                )
        return self


def validate(data: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe that `recipe_file.read` read at `path`; the variant is named after its folder.

    Raises RecipeError: it does not fit the model, or a patch file lies beside it that it does not name.
    """
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        parts = [f"{recipe_file.COMMON}/{name}.toml" for name in data.get(recipe_file.INCLUDE, [])]
        including = f" (with {', '.join(parts)})" if parts else ""
        raise RecipeError(
            f"{paths.shown(path)}{including} is not a valid recipe\n  " + "\n  ".join(lines),
            "recipes/schema.json describes every key; other variants are not affected",
        ) from None
    recipe._name = path.parent.name
    recipe._folder = path.parent
    named = {patch.file for patch in recipe.patch}
    if stray := sorted({file.name for file in (path.parent / "patches").glob("*.patch")} - named):
        raise RecipeError(
            f"{paths.shown(path)} names no patch {', '.join(stray)}, and {paths.shown(path.parent)}/patches has it",
            "name it in a [[patch]], else delete it: a patch that no recipe names is never applied",
        )
    return recipe


def schema() -> dict[str, Any]:
    """The JSON schema of one file of a recipe, as `recipes/schema.json` holds it.

    recipe.toml and a file of recipes/common/ are told alike: no table must be there, but a table that is there is whole.
    """
    whole = Recipe.model_json_schema()
    del whole["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _explain(item: Any) -> str:
    """One pydantic complaint as `key: what is wrong; what is allowed`."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{where or 'recipe'}: {item['msg'].removeprefix('Value error, ')}"
    allowed = _allowed_at(item["loc"][:-1])
    near = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{where}: unknown key; {hint}allowed here: {', '.join(allowed)}"


def _allowed_at(loc: tuple[Any, ...]) -> list[str]:
    """The keys that the model at `loc` takes."""
    definitions = schema()
    node = definitions
    for part in loc:
        node = node["items"] if isinstance(part, int) else node["properties"][part]
        for option in node.get("anyOf", [node]):
            if "$ref" in option:
                node = definitions["$defs"][option["$ref"].rsplit("/", 1)[1]]
    return list(node["properties"])
