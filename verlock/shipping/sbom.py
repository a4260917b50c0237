"""What is on disk in an environment, as CycloneDX 1.6: every package with its licence, hashes, origin and patches.

It is made from a prefix whose files have all been hashed and found to be what the lock says (`verlock.env.verify`), and refused
for any other: a list that names the lock's hashes beside changed bytes would be false, and one that names the changed bytes
would pass damage off as a release. The same prefix gives the same bytes: the time is the receipt's, and the serial number follows
from the content.
"""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from email.parser import BytesParser
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from verlock import __version__, console
from verlock.env import artefacts, installed, verify
from verlock.errors import ExportRefused, ToolMissing
from verlock.system import files
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, Patch, Pedigree
    from packageurl import PackageURL

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # that of URLs, RFC 9562
_LONGEST = 100  # characters; a longer `License:` is the licence's text, not its name


def run(chosen: Chosen, output: Path | None) -> int:
    """`verlock sbom`: verify an environment, then write its list to a file or to standard output. Returns 0.

    Raises:
        NotSealed, or the error of the worst damage, as `verlock verify`.
        ToolMissing: this Python has no cyclonedx-python-lib; `nox -s sbom` brings it.
    """
    chosen.valid()
    with console.step("verify", str(chosen.prefix)):
        damage = verify.inspect(chosen)
    verify.raise_for(chosen.name, chosen.prefix, damage)
    text = of(chosen)
    if output is None:
        sys.stdout.write(text)
    else:
        files.write_whole(output, text)
        console.say(f"{chosen.name} for Python {chosen.python}, {text.count('bom-ref')} entries: {output}")
    return 0


def of(chosen: Chosen) -> str:
    """The JSON text for a prefix that was verified. Raises ToolMissing; ExportRefused where it would not fit the schema."""
    try:
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        raise ToolMissing(
            "cyclonedx-python-lib is not installed for this Python", "run `nox -s sbom`, which brings it"
        ) from None

    bom = _bom(Found(chosen, receipt.read(chosen.prefix)))
    texts: list[str] = []
    for serial in (uuid.UUID(int=0), None):
        bom.serial_number = serial or uuid.uuid5(_NAMESPACE, hashlib.sha256(texts[0].encode()).hexdigest())
        texts.append(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n")
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(texts[-1]):
        raise ExportRefused(f"the list of {chosen.prefix} would not be valid CycloneDX: {error}", "report it, please")
    return texts[-1]


@dataclass(frozen=True)
class Found:
    """A verified environment and its receipt."""

    chosen: Chosen
    sealed: Mapping[str, Any]

    @cached_property
    def locked(self) -> dict[str, dict[str, Any]]:
        """Package -> its file of files.json: no lock's choice among its files depends on the machine's glibc."""
        return lockfiles.taken(self.chosen.locks)

    @cached_property
    def recorded(self) -> dict[str, installed.Recorded]:
        """Package -> what is installed of it."""
        return installed.recorded(self.chosen.site)

    @cached_property
    def conda(self) -> list[dict[str, Any]]:
        """The records of conda-meta, sorted by name."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in installed.conda_records(self.chosen.prefix)]
        return sorted(records, key=lambda record: str(record["name"]))

    @cached_property
    def conda_infos(self) -> set[str]:
        """The METADATA files that the conda layer brings, as paths relative to the prefix."""
        listed = (str(item["_path"]) for record in self.conda for item in record["paths_data"]["paths"])
        return {path for path in listed if path.endswith(".dist-info/METADATA")}


# the whole --------------------------------------------------------------------------------------------


def _bom(found: Found) -> Bom:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    chosen, sealed = found.chosen, found.sealed
    root = Component(
        type=ComponentType.APPLICATION,
        name=chosen.name,
        version=sealed["digest"][:12],
        bom_ref=f"verlock:{chosen.name}",
    )
    about = {
        "python": chosen.python,
        "digest": sealed["digest"],
        "base": f"{sealed['base']['kind']} {sealed['base']['version']}",
    }
    about |= {f"editable:{package}": each["commit"] for package, each in sealed["editable"].items()}
    about |= {f"missing:{package}": reason for package, reason in sealed["missing"].items()}
    root.properties = _properties(about)
    bom = Bom()
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromisoformat(sealed["created"])
    bom.metadata.tools.components.add(Component(type=ComponentType.APPLICATION, name="verlock", version=__version__))
    pip = {name: _distribution(found, name) for name in found.recorded}
    conda = {str(record["name"]): _conda_package(record) for record in found.conda}
    others = [] if conda else [_host_python(sealed["base"])]
    bom.components = [*pip.values(), *conda.values(), *others]
    bom.register_dependency(root, bom.components)
    for name, component in pip.items():
        bom.register_dependency(component, [pip[each] for each in _needs(found, name) if each in pip])
    for record in found.conda:
        needs = {str(line).split()[0] for line in record.get("depends", [])}
        bom.register_dependency(conda[record["name"]], [conda[each] for each in sorted(needs) if each in conda])
    return bom


def _properties(values: Mapping[str, str]) -> Iterable[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"verlock:{name}", value=value) for name, value in values.items()]


def _sha256(value: str) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=value)


def _host_python(base: Mapping[str, Any]) -> Component:
    """The host's CPython, which is not in the prefix: its files that the receipt hashes, the interpreter first."""
    from cyclonedx.model.component import Component, ComponentType

    hashed: dict[str, str] = base.get("interpreter", {})
    component = Component(type=ComponentType.PLATFORM, name="cpython", version=base["version"], bom_ref="verlock:base")
    component.hashes = [_sha256(sha256) for sha256 in list(hashed.values())[:1]]
    component.properties = _properties({f"file:{Path(path).name}": f"sha256:{value}" for path, value in hashed.items()})
    return component


# the conda layer --------------------------------------------------------------------------------------


def _conda_package(record: Mapping[str, Any]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = str(record.get("url", ""))
    kind = "tar.bz2" if url.endswith(".tar.bz2") else "conda"
    channel = str(record.get("channel", "")).rstrip("/").rpartition("/")[2]
    about = {"build": record["build"], "channel": channel, "subdir": record.get("subdir", ""), "type": kind}
    purl = PackageURL(
        "conda", None, record["name"], record["version"], {key: value for key, value in about.items() if value}
    )
    component = Component(
        type=ComponentType.LIBRARY, name=record["name"], version=record["version"], purl=purl, bom_ref=purl.to_string()
    )
    sums = ((HashAlgorithm.SHA_256, record.get("sha256")), (HashAlgorithm.MD5, record.get("md5")))
    component.hashes = [HashType(alg=algorithm, content=value) for algorithm, value in sums if value]
    component.licenses = _licences([], str(record.get("license") or ""))
    return component


# the pip layer ----------------------------------------------------------------------------------------


def _distribution(found: Found, name: str) -> Component:
    """One installed distribution, with the hash of the file it came from, the hash of its RECORD, licences and pedigree."""
    from cyclonedx.model.component import Component, ComponentType

    package = found.recorded[name]
    metadata = _metadata(package)
    sha256, filename, note = _origin(found, name)
    purl = _purl(found, name, package.version)
    component = Component(
        type=ComponentType.LIBRARY,
        name=metadata.get("Name", name),
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
    )
    component.hashes = [_sha256(sha256)] if sha256 else []
    own = {"file": filename, "record": f"sha256:{package.sha256}", "origin": note}
    own |= {
        f"override:{each.requirement}": each.reason
        for each in found.chosen.recipe.override
        if lockfiles.normalise(each.requirer) == name
    }
    component.properties = _properties({key: value for key, value in own.items() if value})
    component.licenses = _of_metadata(metadata)
    component.pedigree = _pedigree(found, name)
    return component


def _metadata(package: installed.Recorded) -> Message:
    return BytesParser().parsebytes((package.folder / "METADATA").read_bytes())


def _origin(found: Found, name: str) -> tuple[str, str, str]:
    """The sha256 and name of the file a distribution came from, and a word on what that is where it is not from the index."""
    recipe, sealed = found.chosen.recipe, found.sealed
    if name in sealed["editable"]:
        return "", "", f"an editable checkout of commit {sealed['editable'][name]['commit']}"
    if name in sealed["site_wheels"]:
        own = sealed["site_wheels"][name]
        return own["sha256"], own["file"], "a site wheel, the user's own"
    if recipe.source and lockfiles.normalise(recipe.source.package) == name:
        wheel = found.chosen.sources["wheel"]
        return wheel["sha256"], wheel["filename"], f"built from commit {recipe.source.commit}"
    for artefact in recipe.artefact:
        file = artefact.file_for(recipe.torch, found.chosen.python)
        if lockfiles.normalise(artefact.package) == name and file:
            return file.sha256, artefacts.filename(file.url), "a released wheel from outside the index"
    if _of_conda(found, name):
        return "", "", "a part of the conda package"
    each = found.locked[name]
    return each["sha256"], each["filename"], "" if each["filename"].endswith(".whl") else "built from its sdist"


def _of_conda(found: Found, name: str) -> bool:
    """Whether a distribution is the conda layer's: conda-meta lists its METADATA."""
    return str((found.recorded[name].folder / "METADATA").relative_to(found.chosen.prefix)) in found.conda_infos


def _purl(found: Found, name: str, version: str) -> PackageURL:
    """`pkg:pypi` for what is on the index; a build from git or a wheel of the user's own is not, and is `pkg:generic`."""
    from packageurl import PackageURL

    source = found.chosen.recipe.source
    if source and lockfiles.normalise(source.package) == name:
        return PackageURL("generic", None, name, version, {"vcs_url": f"git+{source.url}@{source.commit}"})
    if name in found.sealed["site_wheels"]:
        return PackageURL(
            "generic", None, name, version, {"checksum": f"sha256:{found.sealed['site_wheels'][name]['sha256']}"}
        )
    return PackageURL("pypi", None, name, version)


def _needs(found: Found, name: str) -> list[str]:
    """The distributions that another one asks for in this environment, without its extras, sorted."""
    wanted = set()
    for line in _metadata(found.recorded[name]).get_all("Requires-Dist", []):
        try:
            requirement = Requirement(line)
            python = {
                "python_version": found.chosen.python,
                "python_full_version": f"{found.chosen.python}.0",
                "extra": "",
            }
            if requirement.marker is None or requirement.marker.evaluate(python):
                wanted.add(lockfiles.normalise(requirement.name))
        except InvalidRequirement:
            continue
    return sorted(wanted)


# licences ---------------------------------------------------------------------------------------------


def _of_metadata(metadata: Message) -> list[Any]:
    """What a distribution declares: its licence expression, else its `License:` where that is a name, else its classifiers."""
    if expression := metadata.get("License-Expression"):
        return _licences([], str(expression))
    prefix = "License :: "
    classified = [str(line) for line in metadata.get_all("Classifier", []) if line.startswith(prefix)]
    names = [line.rpartition(" :: ")[2] for line in classified if line != "License :: OSI Approved"]
    said = " ".join(str(metadata.get("License", "")).split())
    return _licences(names, said if len(said) <= _LONGEST and said.upper() != "UNKNOWN" else "")


def _licences(names: list[str], said: str) -> list[Any]:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import LicenseAcknowledgement

    declared = LicenseAcknowledgement.DECLARED
    make = LicenseFactory()
    if said:  # an SPDX id, else an SPDX expression, else a name
        return [make.make_from_string(said, license_acknowledgement=declared)]
    return [make.make_with_name(name, acknowledgement=declared) for name in dict.fromkeys(names)]


# where it comes from ----------------------------------------------------------------------------------


def _pedigree(found: Found, name: str) -> Pedigree | None:
    """The commit and the released wheel that a source build is made of, and the patches; None where there is neither."""
    from cyclonedx.model import XsUri
    from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree
    from packageurl import PackageURL

    source = found.chosen.recipe.source
    commits, ancestors = [], []
    if source and lockfiles.normalise(source.package) == name:
        commits.append(Commit(uid=source.commit, url=XsUri(source.url), message=source.subject))
        wheel = source.precompiled
        purl = PackageURL("pypi", None, lockfiles.normalise(wheel.package), wheel.version)
        ancestor = Component(type=ComponentType.LIBRARY, name=wheel.package, version=wheel.version, purl=purl)
        ancestor.hashes = [_sha256(wheel.sha256)]
        ancestors.append(ancestor)
    patches = [_patch(found, each) for each in found.chosen.recipe.patch if lockfiles.normalise(each.package) == name]
    if not (commits or patches):
        return None
    return Pedigree(commits=commits, ancestors=ancestors, patches=patches)


def _patch(found: Found, patch: Any) -> Patch:
    from cyclonedx.model import AttachedText, XsUri
    from cyclonedx.model.component import Diff, PatchClassification
    from cyclonedx.model.component import Patch as Entry
    from cyclonedx.model.issue import IssueClassification, IssueType

    kind = PatchClassification.BACKPORT if patch.upstream else PatchClassification.UNOFFICIAL
    text = found.chosen.recipe.patch_path(patch).read_text(encoding="utf-8")
    links = [XsUri(patch.upstream_link)] if patch.upstream_link else []
    issue = IssueType(type=IssueClassification.DEFECT, name=patch.file, description=patch.why, references=links)
    return Entry(type=kind, diff=Diff(text=AttachedText(content=text)), resolves=[issue])
