"""The commands and sessions, from the parser of the command line and from noxfile.py."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass

from docs.make.markdown import code, sentence, table, words
from verlock import cli, paths


@dataclass(frozen=True)
class Session:
    """A session of noxfile.py: its name (`env-VARIANT`), the command that it runs, if any, and its sentence."""

    name: str
    command: str
    says: str


def parsers() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Every command with its parser and its line of help, in the order of `verlock --help`."""
    (commands,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {each.dest: each.help or "" for each in commands._choices_actions}
    return {name: (parser, helps[name]) for name, parser in commands.choices.items()}


def nox_sessions() -> list[Session]:
    """The sessions of noxfile.py, in its order."""
    tree = ast.parse((paths.ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return [found for node in tree.body if isinstance(node, ast.FunctionDef) for found in _session(node)]


def _session(function: ast.FunctionDef) -> Iterator[Session]:
    """The session that a function of noxfile.py is, or makes for each variant; none for a helper."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    marks = [node for node in calls if ast.unparse(node.func) == "nox.session"]
    if not marks and "nox.session" not in map(ast.unparse, function.decorator_list):
        return
    names = [word.value for mark in marks for word in mark.keywords if word.arg == "name"]
    name = _text(names[0]) if names else function.name
    commands = [_text(node.args[1]) for node in calls if ast.unparse(node.func) == "verlock"]
    yield Session(name, commands[0] if commands else "", ast.get_docstring(function) or "")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "VARIANT" for part in node.values)
    return str(ast.literal_eval(node))


def sessions() -> str:
    """A table of all sessions."""
    known = parsers()
    rows = []
    for each in nox_sessions():
        says = known[each.command][1] if each.command else each.says
        shown = f"[`{each.name}`](#{each.command})" if each.command else code(each.name)
        rows.append((shown, sentence(words(says))))
    return table(("session", "what it does"), rows)


def all_commands() -> str:
    """A section for each command: how it is started, what it does, its arguments and options."""
    by_command = {each.command: each.name for each in nox_sessions()}
    return "\n\n".join(
        _section(name, parser, says, by_command.get(name, "")) for name, (parser, says) in parsers().items()
    )


def _section(name: str, parser: argparse.ArgumentParser, says: str, session: str) -> str:
    lines = [
        f"### {name}",
        "",
        sentence(words(parser.description or says)),
        "",
        "```text",
        start(parser, session),
        "```",
    ]
    rows = [
        (_shown(action), sentence(words(action.help or _plain(action))))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction) and not _in_session(action, session)
    ]
    if rows:
        lines += ["", table(("argument", "meaning"), rows)]
    return "\n".join(lines)


def start(parser: argparse.ArgumentParser, session: str) -> str:
    """The line that starts a command: through nox where there is a session for it, else with the tools' own Python."""
    parser.__dict__["color"] = False  # CPython 3.14 colours what it says, on a terminal
    usage = parser.format_usage().removeprefix("usage: ").split()
    arguments = [word for word in usage[2:] if word != "[-h]"]
    if not session:
        return " ".join([".nox/tools/bin/python -m verlock", parser.prog.split()[-1], *arguments])
    if session.endswith("-VARIANT"):
        arguments.remove("variant")
    return " ".join([f"nox -s {session}", *(["--", *arguments] if arguments else [])])


def _in_session(action: argparse.Action, session: str) -> bool:
    return session.endswith("-VARIANT") and action.dest == "variant"


def _shown(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return code(str(action.metavar or action.dest))
    several = {0: "", "?": f" [{value}]", "*": f" [{value} ...]", "+": f" {value} ..."}
    takes = f" {value}" if action.nargs is None else several[action.nargs]
    return ", ".join(code(f"{option}{takes}") for option in action.option_strings)


def _plain(action: argparse.Action) -> str:
    """What an argument without a help text is."""
    return {"variant": "which variant", "package": "the name of a locked package"}.get(action.dest, action.dest)
