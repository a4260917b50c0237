"""The exit codes, and what verlock says with each: read from verlock/errors.py and from every place that raises one."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docs.make.markdown import code, table, words
from verlock import errors, paths

GAP = "…"  # stands for what is filled in when the sentence is said
_CODE = paths.ROOT / "verlock"


def classes() -> list[type[errors.VerlockError]]:
    """Every kind of error, by its exit code."""
    found = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.VerlockError)]
    return sorted((item for item in found if item is not errors.VerlockError), key=lambda item: item.exit_code)


def table_rows() -> list[tuple[str, str, str]]:
    """Exit code, name and meaning of each kind."""
    return [(str(each.exit_code), each.__name__, " ".join((each.__doc__ or "").split())) for each in classes()]


def table_of_codes() -> str:
    """A table of all exit codes, each with a link to its messages."""
    rows = [
        ("0", "", "All is well; for `run` and `shell`: the command's own exit code."),
        ("1", "", "A bug of verlock's, with a traceback: please report it."),
        ("2", "", "A wrong command line."),
        *((f"[{number}](#{number}-{name.lower()})", code(name), words(means)) for number, name, means in table_rows()),
        ("126, 127", "", "`run`, `shell`: the program cannot be started, or there is no such program."),
        ("130, 143, ...", "", "128 + the number of the signal that ended it: Ctrl-C, `kill`."),
    ]
    return table(("code", "name", "meaning"), rows)


def messages() -> str:
    """A section for each exit code: its messages, and what each says to do."""
    said = spoken()
    return "\n\n".join(_section(each, said.get(each.__name__, [])) for each in classes())


def _section(kind: type[errors.VerlockError], said: list[tuple[str, str]]) -> str:
    lines = [f"### {kind.exit_code} {kind.__name__}", "", words(" ".join((kind.__doc__ or "").split()))]
    remedies: dict[str, list[str]] = {}
    for problem, remedy in dict.fromkeys(said):
        if _tells(problem):
            remedies.setdefault(problem, []).extend([remedy] if _tells(remedy) else [])
    if remedies:
        same: dict[str, list[str]] = {}  # what has the same remedy is told together
        for problem, each in remedies.items():
            same.setdefault("; or: ".join(dict.fromkeys(each)), []).append(words(problem))
        rows = [("<br>".join(problems), words(remedy)) for remedy, problems in same.items()]
        lines += ["", table(("it says", "what to do"), rows)]
    else:
        lines += ["", "What it says, and what to do, depends on the case."]
    return "\n".join(lines)


def _tells(text: str) -> bool:
    """Whether a sentence has words of its own."""
    return bool(re.search(r"[a-z]{2}", text))


def spoken() -> dict[str, list[tuple[str, str]]]:
    """Of each kind, by its name: problem and remedy wherever one is made, in the order of files and lines."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(_CODE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for name in _kinds(node.func, path):
                    found[name] += _pairs(node)
    return found


def _kinds(made: ast.expr, path: Path) -> Iterator[str]:
    """The kinds that a call makes: `Kind(...)`, `errors.Kind(...)`, `Kind.of(...)`, or one of a table, `KINDS[...](...)`."""
    known = {each.__name__ for each in classes()}
    if isinstance(made, ast.Subscript):
        module = importlib.import_module(".".join(path.relative_to(paths.ROOT).with_suffix("").parts))
        kinds = getattr(module, ast.unparse(made.value), None)
        yield from (each.__name__ for each in kinds.values()) if isinstance(kinds, dict) else ()
        return
    name = ast.unparse(made).removeprefix("errors.").removesuffix(".of")
    if name in known:
        yield name


def _pairs(made: ast.Call) -> Iterator[tuple[str, str]]:
    """Problem and remedy of one call, once for each way in which it may be said."""
    arguments = [list(_said(node)) for node in made.args]
    if isinstance(made.func, ast.Attribute) and made.func.attr == "of":  # what, wanted, got, remedy
        arguments = [[f"{what} is not what the lock names" for what in arguments[0]], *arguments[3:]]
    for problem in arguments[0] if arguments else []:
        for remedy in arguments[1] if len(arguments) > 1 else [""]:
            yield problem.splitlines()[0].rstrip(":"), " ".join(remedy.split())


def _said(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be, with a gap for whatever is filled in."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        yield re.sub(f"{GAP}+", GAP, text)
    elif isinstance(node, ast.IfExp):
        yield from (*_said(node.body), *_said(node.orelse))
    elif isinstance(node, ast.BinOp):
        yield re.sub(f"{GAP}+", GAP, next(_said(node.left)) + next(_said(node.right)))
    elif isinstance(node, (ast.Name, ast.Call)) and (texts := _texts().get(_name(node))):
        for each in texts:
            yield from _said(each)
    else:
        yield GAP


def _name(node: ast.Name | ast.Call) -> str:
    """The last part of the name: `_REMEDY`, or `restore` of `lockfiles.restore(path)`."""
    return ast.unparse(node.func).rpartition(".")[2] + "()" if isinstance(node, ast.Call) else node.id


@cache
def _texts() -> dict[str, list[ast.expr]]:
    """Sentences that have a name: constants of modules, and what functions return, as `name()`; only names used once."""
    found: dict[str, list[list[ast.expr]]] = defaultdict(list)
    for path in sorted(_CODE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for top in tree.body:
            if isinstance(top, ast.Assign) and isinstance(top.value, (ast.Constant, ast.JoinedStr, ast.BinOp)):
                found[ast.unparse(top.targets[0])].append([top.value])
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
                found[f"{node.name}()"].append([each for each in given if not isinstance(each, ast.Call)])
    return {name: each[0] for name, each in found.items() if len(each) == 1}
