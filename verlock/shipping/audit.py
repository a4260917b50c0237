"""Which known vulnerabilities a lock carries, by pip-audit: those that the recipe accepts, and those that are new.

An old engine in a frozen stack has vulnerabilities that no newer pin can mend, since a newer engine would be another stack. Each
of those is accepted in the recipe by name, with a reason and a date; any other one fails. pip-audit asks the OSV service. Where
that cannot be reached, advisories in OSV's own form come from a file (such as the service's export of all advisories on
PyPI packages), and a server on the loopback answers pip-audit's questions from it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from verlock import console, paths
from verlock.errors import AuditIncomplete, NetworkError, ToolMissing, VulnerabilityFound
from verlock.system import addresses, loopback, process
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen

_SAID = (
    "Max retries exceeded",
    "Could not connect",
    "ConnectionError",
    "ServiceError",
    "timed out",
)  # pip-audit, offline


@dataclass(frozen=True)
class Vulnerability:
    """What is known of one package at its locked version; `ids` are all names of the same vulnerability."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]
    summary: str

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fixed version is known"
        return f"{self.package} {self.version}: {', '.join(self.ids)}; {fixed}; {self.summary[:160]}"


def run(chosen: Chosen, advisories: Path | None) -> int:
    """`verlock audit`: hold the packages of a lock against the OSV service, or against a file of advisories. Returns 0.

    Raises:
        VulnerabilityFound: some that the recipe does not accept; each is named.
        AuditIncomplete: the file is none of advisories, or a package could not be asked about.
        NetworkError: the service does not answer.
        ToolMissing: this Python has no pip-audit; `nox -s audit` brings it.
    """
    chosen.valid()
    found = audited(packages(chosen), advisories)
    accepted = {(lockfiles.normalise(each.package), each.id): each for each in chosen.recipe.accepted}
    new: list[Vulnerability] = []
    honoured = set()
    for each in found:
        keys = {(each.package, name) for name in each.ids} & accepted.keys()
        honoured |= keys
        for key in sorted(keys)[:1]:
            print(f"accepted on {accepted[key].date}: {each}\n  {accepted[key].reason}")
        if not keys:
            new.append(each)
    for package, name in sorted(accepted.keys() - honoured):
        console.warn(f"the recipe accepts {name} of {package}, which was not found: perhaps it can go")
    if new:
        raise VulnerabilityFound(
            f"{chosen.name} for Python {chosen.python} has known vulnerabilities that its recipe does not accept: {len(new)}\n  "
            + "\n  ".join(map(str, new)),
            "upgrade the package (`nox -s lock -- ... --upgrade`), or name it in the recipe as an [[accepted]], with the reason",
        )
    source = advisories or "the OSV service"
    console.say(f"{chosen.name} for Python {chosen.python}: nothing that is not accepted, by {source}")
    return 0


def packages(chosen: Chosen) -> dict[str, str]:
    """Package -> version of all that the pip layer brings: pins, artefacts, and what is built from a source."""
    recipe = chosen.recipe
    found = {pin.name: pin.version for pin in chosen.pins}
    found |= {lockfiles.normalise(each.package): each.version for each in recipe.artefact}
    if recipe.source:
        found[lockfiles.normalise(recipe.source.package)] = recipe.source.version
    return dict(sorted(found.items()))


def audited(listed: dict[str, str], advisories: Path | None) -> list[Vulnerability]:
    """What pip-audit finds for these packages (name -> version). Raises as `run`."""
    if importlib.util.find_spec("pip_audit") is None:
        raise ToolMissing("pip-audit is not installed for this Python", "run `nox -s audit`, which brings it")
    with tempfile.TemporaryDirectory(prefix="verlock-audit-") as name, contextlib.ExitStack() as stack:
        work = Path(name)
        lines = "".join(f"{package}=={version}\n" for package, version in listed.items())
        (work / "requirements.txt").write_text(lines, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--vulnerability-service",
            "osv",
            "--cache-dir",
            str(work / "cache"),
        ]
        command += ["--requirement", str(work / "requirements.txt"), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--output", str(work / "report.json"), "--progress-spinner", "off"]
        if advisories:
            command += ["--osv-url", stack.enter_context(_answering(read(advisories)))]
        done = subprocess.run(
            process.bound(command), capture_output=True, text=True, check=False, cwd=work,
            env=process.OWN.environment(PYTHONPATH=str(paths.ROOT), **addresses.certificates()),
        )  # fmt: skip
        report = work / "report.json"
        if not report.exists():
            _failed(addresses.scrubbed(done.stderr))
        return _found(json.loads(report.read_text(encoding="utf-8"))["dependencies"], listed)


def _failed(said: str) -> None:
    """Raise the error of a pip-audit that wrote no report."""
    last = process.tail(said, 1)
    if any(word in said for word in _SAID):
        raise NetworkError(
            f"the service of known vulnerabilities does not answer\n{last}",
            "try again with a network, or name a file of advisories in OSV's form: --advisories FILE",
        )
    raise AuditIncomplete(f"pip-audit ended without a report\n{last}", "run it again")


def _found(report: list[dict[str, Any]], listed: dict[str, str]) -> list[Vulnerability]:
    """What a report of pip-audit says. Raises AuditIncomplete where it leaves a package out, which pip-audit calls success."""
    asked = {lockfiles.normalise(each["name"]) for each in report if "skip_reason" not in each}
    if left := sorted(listed.keys() - asked):
        raise AuditIncomplete(f"pip-audit left out {', '.join(left)}", "nothing is known of these: run it again")
    return [
        Vulnerability(
            lockfiles.normalise(each["name"]),
            each["version"],
            tuple(dict.fromkeys([vuln["id"], *sorted(vuln.get("aliases", []))])),
            tuple(vuln["fix_versions"]),
            " ".join(vuln["description"].split()),
        )
        for each in report
        for vuln in each["vulns"]
    ]


# advisories from a file -------------------------------------------------------------------------------


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The advisories on PyPI packages in a file, by normalised package name.

    Args:
        path: JSON with one OSV record, a list of them or `{"vulns": [...]}`; or a zip of such files, as the service exports them.

    Raises AuditIncomplete where it is none of these, or holds no advisory on a PyPI package.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
        else:
            texts = [path.read_bytes()]
        records = [record for text in texts for record in _records(json.loads(text))]
        table: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            for name in {lockfiles.normalise(each["package"]["name"]) for each in _of_pypi(record)}:
                table.setdefault(name, []).append(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise AuditIncomplete(f"{path} is not a file of OSV advisories: {error!r}", "name another file") from None
    if not table:
        raise AuditIncomplete(f"{path} has no advisory on any PyPI package", "name another file")
    return table


def _records(content: Any) -> Iterable[dict[str, Any]]:
    if isinstance(content, list):
        return content
    records: list[dict[str, Any]] = content.get("vulns", [content])
    return records


def _of_pypi(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of `affected` that are about PyPI packages. Raises KeyError for what is no advisory."""
    _ = record["id"]
    return [each for each in record.get("affected", []) if each.get("package", {}).get("ecosystem") == "PyPI"]


def affects(record: dict[str, Any], package: str, version: str) -> bool:
    """Whether an advisory is about this package (normalised name) at this version, by OSV's own rules."""
    own = Version(version)
    return any(
        any(_same(each, own) for each in entry.get("versions", []))
        or any(_within(each["events"], own) for each in entry.get("ranges", []) if each["type"] == "ECOSYSTEM")
        for entry in _of_pypi(record)
        if lockfiles.normalise(entry["package"]["name"]) == package
    )


def _same(text: str, own: Version) -> bool:
    try:
        return Version(text) == own
    except InvalidVersion:
        return False


def _within(events: list[dict[str, str]], own: Version) -> bool:
    """Whether a version lies in a range: after an `introduced` with neither a `fixed` nor a `last_affected` between."""
    order = {"introduced": 2, "fixed": 0, "last_affected": 1}
    dated = [(Version(text), order[kind], kind) for event in events for kind, text in event.items() if kind in order]
    inside = False
    for version, _, kind in sorted(dated):
        if kind == "last_affected":
            inside = inside and own <= version
        elif own >= version:
            inside = kind == "introduced"
    return inside


class _Handler(loopback.Handler):
    def __init__(self, table: dict[str, list[dict[str, Any]]], *args: Any) -> None:
        self._table = table
        super().__init__(*args)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package, version = lockfiles.normalise(asked["package"]["name"]), asked["version"]
        vulns = [record for record in self._table.get(package, []) if affects(record, package, version)]
        self.answer(200, json.dumps({"vulns": vulns} if vulns else {}).encode(), Content_Type="application/json")


@contextlib.contextmanager
def _answering(table: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Serve these advisories as the OSV service does; gives the address to ask."""
    with loopback.serve(partial(_Handler, table)) as address:
        yield f"{address}/v1/query"
