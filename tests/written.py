"""What the README and the pages say: their code, their links, and the commands of verlock in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from verlock import paths

FENCE = re.compile(r"^(?P<mark>```+)(?P<kind>\w*)\n(?P<code>.*?)^(?P=mark)$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<![`\\])`(?!`)([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
SHELL = ("bash", "sh", "shell")
_GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)


def pages() -> list[Path]:
    """All that people read: the files at the top, the pages of docs/ and the issue templates."""
    tops = [paths.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    return [*tops, *sorted((paths.ROOT / "docs").glob("*.md")), *sorted((paths.ROOT / ".github").rglob("*.yml"))]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shell_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The shell code between fences, each with the comment that stands above it (`needs a GPU`), or ""."""
    whole = text(page)
    for found in FENCE.finditer(whole):
        if found["kind"] in SHELL:
            above = re.search(r"<!-- ([^>]*) -->\n\Z", whole[: found.start()])
            yield found["code"], above[1] if above else ""


def inline(page: Path, generated: bool = True) -> list[str]:
    """The code within sentences; a line break in it is a space."""
    whole = FENCE.sub("", text(page))
    if not generated:
        whole = _GENERATED.sub("", whole)
    return [" ".join(found.split()) for found in INLINE.findall(whole)]


def lines(code: str) -> Iterator[str]:
    """The command lines of shell code: without comments, continued lines joined; what stands in `$(...)` is a line too."""
    for line in code.replace("\\\n", " ").splitlines():
        yield from re.findall(r"\$\(([^()]*)\)", line)
        yield from re.sub(r"\$\([^()]*\)", "INNER", line).split("&&")


def words(line: str) -> list[str]:
    """The words of a command line, without variables before it and without what stands behind `>` or `|`."""
    named = re.sub(r"<(\w+)>", lambda found: found[1].upper(), line)  # `<variant>` is VARIANT
    lexer = shlex.shlex(named, posix=True, punctuation_chars="><|")
    lexer.whitespace_split = True
    found = list(lexer)
    ends = [found.index(mark) for mark in (">", "|", ">>") if mark in found]
    found = found[: min(ends, default=len(found))]
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        del found[0]
    return found


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Every command line on a page that starts nox or verlock, as words, and whether it is to be run as it stands.

    In a sentence `nox -s verify` may just be the name of something; what `…` or `...` shortens is none.
    """
    sentences = FENCE.sub("", text(page))
    indented = (
        re.findall(r"^    ((?:nox|bash) .*?)(?:   .*)?$", sentences, re.MULTILINE) if page.suffix == ".md" else []
    )
    codes = [(code, True) for code, _ in shell_blocks(page)] + [(code, False) for code in indented + inline(page)]
    for code, whole in codes:
        for line in lines(code):
            if re.search(r"\bnox -s|-m verlock", line) and not re.search(r"…|\.\.\.", line):
                yield words(line), whole


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    bare = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", bare.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE)}


def links(page: Path) -> list[str]:
    """The targets of all links and pictures that do not lead to another site."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", INLINE.sub("", text(page))))
    return [each for each in found if not re.match(r"https?://|mailto:", each)]
