"""Which package index this machine's user has chosen: one answer for locks, for the wheels that uv installs, and for pip.

uv knows nothing of pip's settings, and pip nothing of uv's. So both are read here, and each tool is told. The first of these that
names an index counts: UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL, uv.toml (the user's, then the system's), pip.conf. None of
them: the tools' own default.

Only the main index is looked for. A further one (pip's extra-index-url, uv's `[[index]]` without `default`) never takes part in a
lock, and is not passed from one tool to the other: uv asks it before the main one and takes no other version than it has there,
pip the newest of all. uv and pip still use their own when they install, where the lock's hashes say what is right.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verlock.system import addresses

_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_NAMED = re.compile(r"[\w.-]+=(?=\S)")  # uv's `name=https://...`


@dataclass(frozen=True)
class Chosen:
    """The index's address (with credentials, where there are some; "" for the tools' own default), and what says so."""

    url: str = field(default="", repr=False)
    by: str = ""

    def __str__(self) -> str:
        return f"{addresses.shown(self.url)} ({self.by})" if self.url else "the default index"


def chosen() -> Chosen:
    """The user's choice now; the files are read at every call, which takes a few milliseconds."""
    for name in _VARIABLES:
        if value := os.environ.get(name, "").strip():
            return Chosen(address(value), name)
    for path, found in (*_in_uv_toml(), *_in_pip_conf()):
        return Chosen(address(found), str(path))
    return Chosen()


def upstream() -> str:
    """The address of the simple index, without a slash at its end; the one that pip has built in where nobody chose another."""
    if url := chosen().url:
        return url
    from pip._internal.models.index import PyPI

    return str(PyPI.simple_url).rstrip("/")


def for_uv() -> dict[str, str]:
    """The variables that tell uv of what only other tools' settings say: pip's index, and certificates."""
    index = chosen()
    told = {"UV_DEFAULT_INDEX": index.url} if index.url and (index.by == "PIP_INDEX_URL" or _is_pips(index.by)) else {}
    return {**told, **addresses.certificates()}


def for_pip() -> dict[str, str]:
    """The variables that tell pip of what only uv's settings say: the index, and certificates."""
    index = chosen()
    told = {"PIP_INDEX_URL": index.url} if index.url else {}
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle and not any(os.environ.get(name) for name in addresses.BUNDLES):
        told["PIP_CERT"] = bundle
    return told


def address(value: str) -> str:
    """The URL (or path) in a setting: without uv's name before it (`corp=https://...`) and without a last slash."""
    named = _NAMED.match(value)
    return (value[named.end() :] if named else value).rstrip("/")


def _is_pips(by: str) -> bool:
    return by in {str(path) for path in _pip_files()}


def _in_uv_toml() -> Iterator[tuple[Path, str]]:
    if os.environ.get("UV_NO_CONFIG", "").lower() in ("1", "true"):
        return
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if given := os.environ.get("UV_CONFIG_FILE"):
        paths = [Path(given)]
    else:
        system = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
        paths = [_config_home() / "uv/uv.toml"]
        paths += [Path(folder) / "uv/uv.toml" for folder in system.split(os.pathsep) if folder]
        paths += [Path("/etc/uv/uv.toml")]
    for path in paths:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # uv itself says what is wrong with it
            continue
        if found := _default_index(data.get("pip", {})) or _default_index(data):
            yield path, found


def _default_index(table: dict[str, Any]) -> str:
    """The main index that a table of uv.toml names, or ""."""
    try:
        default = [str(entry["url"]) for entry in table.get("index", []) if entry.get("default")]
        return default[0] if default else str(table.get("index-url", ""))
    except (AttributeError, KeyError, TypeError):
        return ""


def _in_pip_conf() -> Iterator[tuple[Path, str]]:
    for path in reversed(_pip_files()):  # pip lets a later file overrule an earlier one
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):  # pip itself says what is wrong with it
            continue
        for section in ("download", "install", "global"):  # a command's own section overrules the global one
            for name in ("index-url", "index_url"):
                if found := parser.get(section, name, fallback="").strip():
                    yield path, found


def _pip_files() -> list[Path]:
    """pip's configuration files in its order: the machine's, the user's, this Python's, and PIP_CONFIG_FILE."""
    given = os.environ.get("PIP_CONFIG_FILE", "")
    if given == os.devnull:
        return []
    system = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    paths = [Path(folder) / "pip/pip.conf" for folder in system.split(os.pathsep) if folder]
    paths += [Path("/etc/pip.conf"), _home() / ".pip/pip.conf", _config_home() / "pip/pip.conf"]
    return [*paths, Path(sys.prefix) / "pip.conf", *([Path(given)] if given else [])]


def _home() -> Path:
    return Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails for a user without a home)


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config")
