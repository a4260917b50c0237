"""Git sources: one commit, fetched shallow into its own store, and trusted only if its tree hash is right.

The store is a bare repository per commit in the cache. Since the tree hash decides, it does not matter where the commit
comes from: `VERLOCK_SOURCE_MIRROR` (URLs or paths of any clone that holds it, separated by commas), the recipe's URL, or
what git's own `url.<base>.insteadOf` turns either into. Once the store is there, no network is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from verlock import paths
from verlock.errors import (
    NetworkError,
    SourceMismatch,
    SourceStoreDamaged,
    SourceUnavailable,
    ToolMissing,
    VerlockError,
)
from verlock.system import addresses, download, process

if TYPE_CHECKING:
    from verlock.variant.checkouts import Checkout
    from verlock.variant.recipe import Source as RecipeSource

    Source: TypeAlias = RecipeSource | Checkout

_REF = "refs/verlock/source"
_NO_ANSWER = re.compile(
    r"Could not resolve|Failed to connect|Connection (?:refused|timed out|reset)|Network is unreachable|No route to host"
    rf"|{download.OFFLINE}|Operation too slow|Operation timed out|Couldn't connect|returned error: (?:407|5\d\d)",
    re.IGNORECASE,
)
_OTHER_OWNER = re.compile(r"detected dubious ownership in repository at '([^'\n]+)'")
# a server that speaks only the first version of git's protocol offers branches and tags, but no commit by its hash
_BRANCHES_ONLY = re.compile(
    r"unadvertised object|dumb http|does not support shallow|couldn't find remote ref", re.IGNORECASE
)
_ANYWHERE = (
    "set VERLOCK_SOURCE_MIRROR to the URL or path of any clone that holds the commit (its tree hash is checked), "
    "or tell git where to look: git config --global url.<base>.insteadOf <url>"
)


def store_path(source: Source) -> Path:
    """Where the store of a source's commit is, or will be."""
    return paths.cache_dir() / "sources" / f"{source.package}-{source.commit}.git"


def store(source: Source) -> Path:
    """The verified store of the source's commit, fetched where it is not there yet.

    Raises:
        SourceUnavailable: none of the places asked has the commit.
        NetworkError: none of the places asked answers.
        SourceMismatch: the commit's tree is not the one that the recipe names.
        SourceStoreDamaged: the store is truncated or was changed by hand.
        ToolMissing: there is no git.
    """
    path = store_path(source)
    if not path.exists():
        _fetch(source, path)
    else:
        _verify(source, path)
    return path


def checkout(source: Source, into: Path) -> None:
    """Write the files of the source's commit, and nothing else, into the empty folder `into`.

    The user's git configuration (line endings, filters) and the umask have no effect. Raises as `store` does.
    """
    path = store(source)
    with tempfile.TemporaryDirectory(prefix="verlock-index-") as folder:
        git = _Git(path, {"GIT_WORK_TREE": str(into), "GIT_INDEX_FILE": f"{folder}/index"})
        into.mkdir(parents=True, exist_ok=True)
        git.run("read-tree", source.tree)
        git.run("checkout-index", "--all", "--force")


def clone(source: Source, into: Path) -> None:
    """Make `into` a git checkout of the source's commit to work in; its `origin` is the recipe's URL. Raises as `store` does."""
    path = store(source)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}-") as folder:
        draft = Path(folder) / "checkout"
        git = _Git(draft / ".git", {"GIT_WORK_TREE": str(draft)})
        draft.mkdir()
        git.run("init", "--quiet", "--template=", str(draft))
        git.run("fetch", "--quiet", "--depth=1", "--no-tags", "--", str(path), f"+{_REF}:{_REF}")
        git.run("remote", "add", "origin", source.url)
        git.run("reset", "--quiet", "--hard", source.commit)
        git.run("branch", "--move", f"verlock-{source.commit[:8]}")
        draft.rename(into)


def descends(checkout: Path, commit: str) -> bool:
    """Whether `checkout` is a git checkout whose HEAD is this commit, or was made on top of it."""
    git = _Git(checkout / ".git")
    return (checkout / ".git").is_dir() and git.try_run("merge-base", "--is-ancestor", commit, "HEAD") is None


def tracked(checkout: Path, commit: str) -> frozenset[str]:
    """The paths of the files in a commit that `checkout` holds."""
    return frozenset(_Git(checkout / ".git").run("ls-tree", "-r", "-z", "--name-only", commit).split("\0"))


def changed(checkout: Path, commit: str) -> list[str] | None:
    """Files in `checkout` that are not as in a commit, or not in it, sorted; those that a .gitignore names are left out.

    The checkout's own index is neither read nor written, so nothing that its user told git hides a change. None where
    `checkout` is no git checkout that holds the commit.
    """
    if not (checkout / ".git").is_dir():
        return None
    with tempfile.TemporaryDirectory(prefix="verlock-index-") as folder:
        git = _Git(checkout / ".git", {"GIT_WORK_TREE": str(checkout), "GIT_INDEX_FILE": f"{folder}/index"})
        if git.try_run("read-tree", commit) is not None:
            return None
        found = git.run("diff", "--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules", "-z").split("\0")
        found += git.run("ls-files", "--others", "--exclude-per-directory=.gitignore", "-z").split("\0")
    return sorted({name for name in found if name})


def _fetch(source: Source, path: Path) -> None:
    """Fetch into a scratch repository, verify it, and rename it into place: a store is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        draft = Path(folder) / "store.git"
        _Git(draft).run("init", "--quiet", "--bare", "--template=", str(draft))
        refusals: dict[str, str] = {}
        for place in _places(source):
            refusal = _fetch_from(place, source.commit, draft) if _may_be_asked(place) else download.OFFLINE
            if refusal is None:
                break
            refusals[place] = refusal
        else:
            raise _nowhere(source, refusals)
        _verify(source, draft)
        with contextlib.suppress(OSError):  # another run was faster, and its store is just as good
            draft.rename(path)
    _verify(source, path)


def _places(source: Source) -> list[str]:
    """The mirrors, then the recipe's URL; relative paths are made absolute, since git runs elsewhere."""
    mirrors = [place.strip() for place in os.environ.get("VERLOCK_SOURCE_MIRROR", "").split(",") if place.strip()]
    return [str(Path(place).absolute()) if Path(place).exists() else place for place in mirrors] + [source.url]


def _may_be_asked(place: str) -> bool:
    """An offline run asks no host; what lies on this machine needs none."""
    return not paths.offline() or place.startswith("file:") or Path(place).exists()


def _fetch_from(place: str, commit: str, draft: Path) -> str | None:
    """Fetch the commit from one place. Returns None on success, else the reason."""
    git = _Git(draft, users_own=True)
    options = [
        "-c",
        "protocol.version=2",
        "-c",
        "gc.auto=0",
        "-c",
        "http.lowSpeedLimit=1000",
        "-c",
        "http.lowSpeedTime=30",
    ]
    fetch = ["fetch", "--quiet", "--no-tags"]
    refusal = git.try_run(*options, *fetch, "--depth=1", "--", place, f"+{commit}:{_REF}")
    if refusal is None or not _BRANCHES_ONLY.search(refusal):
        return refusal
    refusal = git.try_run(*options, *fetch, "--", place, "+refs/*:refs/all/*")
    if refusal is None:
        refusal = git.try_run("update-ref", _REF, commit)
        for ref in git.run("for-each-ref", "--format=%(refname)", "refs/all").split():
            git.run("update-ref", "-d", ref)
    return refusal


def _nowhere(source: Source, refusals: dict[str, str]) -> VerlockError:
    lines = "".join(f"\n  {addresses.shown(place)}: {_complaint(reason)}" for place, reason in refusals.items())
    if all(_NO_ANSWER.search(reason) for reason in refusals.values()):
        hosts = sorted({addresses.host(place) for place in refusals})
        return NetworkError(f"{' and '.join(hosts)} cannot be reached for {source.package}'s source{lines}", _ANYWHERE)
    return SourceUnavailable(
        f"commit {source.commit} of {source.package} is in none of the places asked{lines}", _ANYWHERE
    )


def _complaint(reason: str) -> str:
    """git's own error message, without credentials and without what GitPython prints around it."""
    if owner := _OTHER_OWNER.search(reason):
        return (
            f"{owner[1]} belongs to another user, and git does not read it before you say that it may: "
            f"git config --global --add safe.directory '{owner[1]}'"
        )
    found = re.search(r"(?:fatal|error|remote error): ([^\n]*)", reason)
    return addresses.scrubbed((found[1] if found else reason.strip().splitlines()[-1]).rstrip("'"))


def _verify(source: Source, path: Path) -> None:
    """Check that the store holds only this commit, complete and unchanged, with the recipe's tree."""
    git = _Git(path)
    remedy = f"remove {path} and run again: it is fetched again"
    refs = git.try_run("for-each-ref", "--format=%(objectname) %(refname)")
    head = (path / "HEAD").exists()
    if refs is not None or not head:
        raise SourceStoreDamaged(
            f"{path} is not a git repository any more: {_complaint(refs or 'HEAD is gone')}", remedy
        )
    found = git.output.split("\n") if git.output else []
    extras = [line.split()[1] for line in found if line != f"{source.commit} {_REF}"]
    extras += [name for name in ("objects/info/alternates", "info/grafts", "info/attributes") if (path / name).exists()]
    if extras or not found:
        raise SourceStoreDamaged(f"{path} was changed by hand: {', '.join(extras) or f'{_REF} is gone'}", remedy)
    if refusal := git.try_run("fsck", "--full", "--no-dangling", "--no-progress"):
        raise SourceStoreDamaged(f"{path} is damaged: {_complaint(refusal)}", remedy)
    tree = git.run("rev-parse", "--verify", f"{source.commit}^{{tree}}")
    if tree != source.tree:
        raise SourceMismatch(
            f"the tree of {source.package} {source.commit} is not the one the recipe names\n"
            f"  wanted  {source.tree}\n  got     {tree}",
            "a commit has only one tree: correct `tree` or `commit` in recipe.toml, from a source you trust",
        )


class _Git:
    """git on one repository, through GitPython; the user's configuration is used only to reach a host."""

    def __init__(self, repository: Path, environment: dict[str, str] | None = None, *, users_own: bool = False) -> None:
        try:
            import git
        except ImportError as error:  # GitPython looks for the executable when it is imported
            raise ToolMissing(f"git cannot be used: {str(error).splitlines()[0]}", "install git") from None
        self._error: type[Exception] = git.GitCommandError
        self._git = git.Git(repository.parent)
        self.output = ""
        own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "0", "GIT_CONFIG_PARAMETERS": ""}
        own |= dict.fromkeys(
            ("GIT_CONFIG_GLOBAL", "HOME", "XDG_CONFIG_HOME"), os.devnull
        )  # git before 2.32 knows only HOME
        own = {} if users_own else own
        self._environment = {
            **own,
            # all set here, since a git hook that calls verlock sets them for its own repository
            "GIT_DIR": str(repository),
            "GIT_OBJECT_DIRECTORY": str(repository / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
            "GIT_INDEX_FILE": str(repository / "index"),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",  # git would wait forever for an answer to a question that nobody sees
            **(environment or {}),
        }

    def run(self, *arguments: str) -> str:
        """Run git; returns its output, stripped. Raises SourceStoreDamaged: on a sound store none of these commands fails."""
        if refusal := self.try_run(*arguments):
            where = self._environment["GIT_DIR"]
            raise SourceStoreDamaged(
                f"git {arguments[0]} fails in {where}: {_complaint(refusal)}",
                f"check that its disk has free space; if it has, remove {where} and run again",
            )
        return self.output

    def try_run(self, *arguments: str) -> str | None:
        """Run git. Returns None on success (`output` holds what it printed), else the error it printed."""
        try:
            self.output = str(self._git.execute(process.bound(["git", *arguments]), env=self._environment))
        except self._error as error:
            return str(getattr(error, "stderr", "") or error)
        return None
