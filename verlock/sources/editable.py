"""`--editable verl` or `vllm`: a git checkout beside the environment in the place of the package's files, for who works on it.

The released package is installed first, so that its metadata, scripts and compiled objects are those of the lock. Its code then
makes way for a `.pth` file that names the checkout (https://docs.python.org/3/library/site.html), and `direct_url.json` says so,
as after `pip install --editable`. A checkout is its user's: it is made once, and nothing here or elsewhere in verlock changes or
deletes a file of it. It lies beside the environment, so no rebuild comes near it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import console
from verlock.errors import CheckoutRefused
from verlock.sources import git_commit, patches
from verlock.system import files
from verlock.variant import record

if TYPE_CHECKING:
    from verlock.variant.checkouts import Checkout
    from verlock.variant.recipe import Recipe

SHOWN = 5  # files of which a message tells


def place(prefix: Path, package: str) -> Path:
    """Where the checkout of an environment's package is: `envs/vllm073-verl` for `envs/vllm073`."""
    return prefix.with_name(f"{prefix.name}-{package}")


def ready(checkout: Checkout, where: Path) -> None:
    """Have what `install` needs: the checkout itself, else a verified store of its commit.

    Raises:
        CheckoutRefused: something else lies at `where`. For a store, what `git_commit.store` raises.
    """
    if not where.exists():
        git_commit.store(checkout)
    elif not git_commit.descends(where, checkout.commit):
        raise CheckoutRefused(
            f"{where} exists, but is not a git checkout whose HEAD is commit {checkout.commit[:12]} or comes after it",
            "move it away, or put its HEAD back on top of that commit: what is there is never changed here",
        )


def install(recipe: Recipe, site: Path, checkout: Checkout, where: Path) -> None:
    """Put the checkout into the place of an installed package's code; made here where there is none, with the recipe's patches.

    Files that the wheel has and the commit has not, such as compiled objects, are copied to where they are missing.

    Args:
        recipe: of the variant.
        site: site-packages, with the released package as the lock has it.
        checkout: the commit.
        where: its folder.

    Raises what `ready` and `patches.measure` raise.
    """
    ready(checkout, where)
    own = recipe.model_copy(update={"patch": [each for each in recipe.patch if each.package == checkout.package]})
    info = site / f"{checkout.package}-{checkout.version}.dist-info"
    with (info / record.NAME).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if where.exists():
        code = _code(rows, where)
        _complete(site, where, code, checkout)
    else:
        # renamed once it is whole, so that a killed run leaves no half-made checkout
        draft = where.with_name(f".{where.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        git_commit.clone(checkout, draft)
        if own.patch:
            patches.measure(own, draft, into=draft)
        code = _code(rows, draft)
        _complete(site, draft, code, checkout)
        draft.rename(where)
    _take_out(site, code)
    _write_record(info, checkout, where, [row for row in rows if row[0] not in code])
    for state in patches.states(own, where, {"patches": []}):
        if state.outcome is not patches.Outcome.APPLIED:
            console.warn(f"{where}: {state.patch.file} is {state.outcome.value}")


def differences(where: Path, commit: str) -> dict[str, str]:
    """Files of a checkout that differ from a commit: path -> sha256, empty for what is gone. Ignored files are not looked at.

    Raises CheckoutRefused: `where` is no checkout that holds the commit.
    """
    names = git_commit.changed(where, commit)
    if names is None:
        raise CheckoutRefused(
            f"{where} cannot be compared with commit {commit[:12]}: it is no git checkout that holds it",
            "put it back, or move it away: a new one is made by the next `nox -s env-<variant>`",
        )
    return {name: files.sha256_if_there(where / name) or "" for name in names}


def said(editable: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A receipt's editable packages for people, one line each.

    Args:
        editable: the receipt's entry.
        found: package -> what `differences` gave.
    """
    lines = []
    for package, entry in sorted(editable.items()):
        changed = sorted(found.get(package, {}))
        names = ", ".join(changed[:SHOWN]) + (f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")
        count = f"{len(changed)} file{'s differ' if len(changed) > 1 else ' differs'} from" if changed else "as in"
        lines.append(
            f"editable: {package} is {entry['checkout']}, {count} commit {entry['commit'][:12]}{f': {names}' if names else ''}"
        )
    return lines


def _code(rows: Sequence[Sequence[str]], where: Path) -> dict[str, None]:
    """The files of a RECORD that lie in folders of the checkout's own: all of the package but metadata and scripts."""
    there = {path.name for path in where.iterdir() if path.is_dir()}
    return {row[0]: None for row in rows if "/" in row[0] and row[0].partition("/")[0] in there}


def _complete(site: Path, where: Path, code: Mapping[str, None], checkout: Checkout) -> None:
    """Copy what the wheel has and the commit has not; a file of the commit that its user deleted stays deleted."""
    tracked = git_commit.tracked(where, checkout.commit)
    for name in code:
        if name not in tracked and not (where / name).exists() and not name.endswith(".pyc"):
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            draft = files.draft_of(where / name)
            shutil.copyfile(site / name, draft)  # a copy: the file in `site` is a hardlink into uv's cache
            draft.replace(where / name)


def _take_out(site: Path, code: Mapping[str, None]) -> None:
    """Delete the package's code from `site`, with the folders that are empty then."""
    for name in code:
        (site / name).unlink(missing_ok=True)
    for top in sorted({name.partition("/")[0] for name in code}):
        for folder in sorted((path for path in (site / top).rglob("*") if path.is_dir()), reverse=True):
            if folder.name == "__pycache__":
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            (site / top).rmdir()


def _write_record(info: Path, checkout: Checkout, where: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write the `.pth`, direct_url.json as pip does, and the RECORD that lists them; no hardlink is written through."""
    direct = json.dumps({"dir_info": {"editable": True}, "url": where.as_uri()})
    own = {
        f"__editable__.{checkout.package}-{checkout.version}.pth": f"{where}\n",
        f"{info.name}/direct_url.json": direct,
    }
    for name, text in own.items():
        files.write_whole(info.parent / name, text)
    listing = io.StringIO()
    out = csv.writer(listing, lineterminator="\n")
    out.writerows(row for row in rows if row[0] not in own)
    out.writerows([name, *record.entry(text.encode())] for name, text in own.items())
    files.write_whole(info / record.NAME, listing.getvalue())
