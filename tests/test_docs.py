"""The README and the pages of docs/: their generated parts are current, and what they name is there."""

from __future__ import annotations

import ast
import json
import re

import pytest
import written

from docs.make import __main__ as make
from docs.make import blocks, commands, errors, figures, markdown, variables, variants
from verlock import cli, paths
from verlock.proving import status
from verlock.variant.chosen import names

PAGES = written.pages()
README = paths.ROOT / "README.md"
EXAMPLE = "vllm084"  # of docs/adding-a-variant.md
SESSIONS = {each.name: each.command for each in commands.nox_sessions()}


def known_variant(page, name):
    return name in ("VARIANT", "*", *names()) or (name == EXAMPLE and page.name == "adding-a-variant.md")


def started(page, words):
    """The command line of verlock that a written one starts, [] for what is none. Raises AssertionError or KeyError."""
    if words[:2] != ["nox", "-s"]:
        return words[words.index("verlock") + 1 :]
    sessions, _, arguments = (" ".join(words[2:])).partition(" -- ")
    kind, _, variant = sessions.partition("-")
    if kind in ("env", "smoke"):
        assert known_variant(page, variant), f"there is no variant {variant}"
        return [SESSIONS[f"{kind}-VARIANT"], variant, *arguments.split()]
    return [command, *arguments.split()] if (command := SESSIONS[sessions]) else []


def wrong_with(page, words, whole):
    """What is wrong with a written command line; "" where verlock's own parser takes it and its variants exist."""
    try:
        line = started(page, words)
        if not line or (len(line) == 1 and not whole and line[0] in commands.parsers()):
            return ""
        found = cli._parser().parse_args(line)
        found = cli._with_later_options(found) if line[0] == "run" else found
    except (AssertionError, KeyError, ValueError) as error:
        return f"{words}: {error!r}"
    except SystemExit as end:
        return f"{words}: see what argparse says" if end.code else ""
    asked = [getattr(found, "variant", None), *(getattr(found, "variants", None) or [])]
    gone = [name for name in asked if name and name != "tools" and not known_variant(page, name)]
    return f"{words}: no variant {gone}" if gone else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page):
    assert [wrong for words, whole in written.commands(page) if (wrong := wrong_with(page, words, whole))] == []


def test_wrong_commands_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nnox -s verify -- vllm073 --jsn\nnox -s verify\necho $(nox -s run -- vllm999 --flags)\n```\n"
        "and `nox -s verfy`, `nox -s env-vllm999`, `nox -s why -- v1`, `nox -s doctor --json`, `python -m verlock lst`;\n"
        "but `nox -s verify`, `nox -s env-<variant>` and `nox -s lock -- ... --upgrade` are right\n"
    )
    wrong = [wrong_with(page, words, whole) for words, whole in written.commands(page)]
    assert [bool(each) for each in wrong] == [True] * 8 + [False] * 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_a_sentence_exists(page):
    known = {
        option
        for parser, _ in commands.parsers().values()
        for each in parser._actions
        for option in each.option_strings
    }
    others = {"--address"}  # Ray's
    if page.name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        others |= {"--list", "--quick", "--plant", "--no-deps"}
    named = {
        re.split(r"[= ]", word)[0]
        for code in written.inline(page, generated=False)
        if (found := re.match(r"(?:-- )?(--[a-z].*)", code))
        for word in found[1].split()
        if word.startswith("--") and word != "--"
    }
    assert named <= known | others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    dead = []
    for link in written.links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place) if place else page
        if place.startswith("../../"):
            continue  # GitHub's own pages of this repository
        if not target.exists() or (anchor and anchor not in written.anchors(target)):
            dead.append(link)
    assert dead == []


TOPS = "docs|verlock|tests|benchmarks|environments|recipes|locks|certificates|results"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_in_a_sentence_exists(page):
    """Those with a name of their own: no VARIANT, no <variant>, no star."""
    named = [code for code in written.inline(page, generated=False) if re.fullmatch(rf"(?:{TOPS})/[\w./-]*", code)]
    templates = ("VARIANT", EXAMPLE, "X.Y")
    gone = [code for code in named if not (paths.ROOT / code).exists() and not any(part in code for part in templates)]
    assert [code for code in gone if code != "results/"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_of_verlock_is_in_the_table(page):
    known = {name for group in variables.known()["group"] for each in group["variable"] for name in each["names"]}
    assert set(re.findall(r"VERLOCK_[A-Z_]+", written.text(page))) <= known


def test_the_table_of_variables_has_all_that_the_code_reads():
    files = [paths.ROOT / "noxfile.py", *(paths.ROOT / "verlock").rglob("*.py")]
    strings = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    read = {each for each in strings if re.fullmatch(r"VERLOCK_[A-Z_]+", each)}
    table = variables.known()
    users = {name for group in table["group"] for each in group["variable"] for name in each["names"]}
    assert read - users - set(table["internal"]) == set(), "docs/variables.toml lacks them"
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    gone = [name for name in users | set(table["internal"]) if not re.search(rf"\b{name}\b", text)]
    assert gone == [], "no code reads them"


def test_the_readme_is_short():
    assert len(written.text(README).splitlines()) <= 120


def test_every_generated_part_is_current():
    assert [paths.shown(page) for page in blocks.stale()] == [], "run `nox -s docs`"


def test_every_generated_part_stands_on_one_page():
    found = [
        name for page in blocks.pages() for name in re.findall(r"<!-- generated: ([\w ]+) -->", written.text(page))
    ]
    assert sorted(found) == sorted(blocks.BLOCKS)


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "sessions.md"
    path.write_text("before\n<!-- generated: sessions -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(blocks, "DOCS", tmp_path)
    return path


def test_a_part_that_is_not_current_is_said_and_written_again(page, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["docs.make", "--check"])
    assert make.main() == 1 and "old" in page.read_text()
    assert "not current: run `nox -s docs`" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["docs.make"])
    assert make.main() == 0
    assert page.read_text() == f"before\n<!-- generated: sessions -->\n{commands.sessions()}\n<!-- end -->\nafter\n"
    monkeypatch.setattr("sys.argv", ["docs.make", "--check"])
    assert make.main() == 0


def test_an_unknown_part_is_refused(page):
    page.write_text("<!-- generated: nothing -->\n<!-- end -->\n")
    with pytest.raises(KeyError):
        blocks.stale()


def test_every_command_and_session_has_its_place():
    text = commands.all_commands()
    for name, (parser, _) in commands.parsers().items():
        (section,) = re.findall(rf"^### {name}\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
        for action in parser._actions:
            assert all(option in section or option in ("-h", "--help") for option in action.option_strings)
    assert {"env-VARIANT", "smoke-VARIANT", "docs", "tests", "bench-rollout"} <= SESSIONS.keys()
    assert SESSIONS["env-VARIANT"] == "create" and SESSIONS["tests"] == ""
    assert all(each.command or each.says for each in commands.nox_sessions())


def test_every_exit_code_is_in_the_table_with_what_is_said():
    table, said = errors.table_of_codes(), errors.spoken()
    for kind in errors.classes():
        assert f"| [{kind.exit_code}](#{kind.exit_code}-{kind.__name__.lower()}) | `{kind.__name__}` |" in table
        assert said.get(kind.__name__), f"nothing raises {kind.__name__}"
    assert ("git is not installed", "install git: patches are applied and sources are fetched with it") in said[
        "ToolMissing"
    ]
    assert ("… is not JSON", "restore what was locked: `git checkout HEAD -- …`") in said["LockError"]  # a function's
    assert any(remedy.startswith("start one agent on every node") for _, remedy in said["NodeMissing"])  # a constant
    assert any("`nox -s env-…` puts it right" in remedy for _, remedy in said["FileChanged"])  # out of a table of kinds
    assert any(problem.endswith("is not what the lock names") for problem, _ in said["IntegrityError"])


@pytest.mark.parametrize(
    ("code", "pairs"),
    [
        ('NetworkError("no answer", "try again")', [("no answer", "try again")]),
        ('NetworkError(f"{host} is\\n  {why}")', [("… is", "")]),
        ('NetworkError("gone", "wait" if old else f"ask {who}")', [("gone", "wait"), ("gone", "ask …")]),
        ('NetworkError("a " + "b", said)', [("a b", "…")]),
    ],
)
def test_what_is_said_is_read_out_of_the_code(code, pairs):
    assert list(errors._pairs(ast.parse(code, mode="eval").body)) == pairs


def test_cells_and_words_are_meant_literally():
    assert markdown.table(("a", "b"), [("x | y", "1\n2")]) == "| a | b |\n| --- | --- |\n| x \\| y | 1 2 |"
    assert markdown.words("a_b <c> `d_e` [f]") == "a\\_b \\<c> `d_e` \\[f\\]"


def test_training_has_a_line_for_every_variant_and_each_reason_once():
    text = variants.training()
    assert all(text.count(f"\n| `{name}` |") == 1 for name in names())
    reason = "an assertion refuses free\\_cache\\_engine=True together with CUDA graphs"
    (line,) = [line for line in text.splitlines() if reason in line]
    assert "`vllm073`" in line and "`vllm083`" in line and "`vllm0110`" not in line
    assert "| `vllm0110` | 0.6.1 | 0.11.0 (V1) | none | nothing |" in text


def test_rollouts_appear_as_soon_as_there_are_some(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert "nothing measured on a GPU yet" in figures.rollouts()
    card = tmp_path / "results/h100/1234"
    card.mkdir(parents=True)
    (card / "table.md").write_text("# Rollouts on an H100\n\ntext\n")
    (card / "bars-7b.svg").touch()
    text = figures.rollouts()
    assert text.startswith("### Rollouts on an H100") and "![bars 7b](../results/h100/1234/bars-7b.svg)" in text


def test_figures_of_a_stale_certificate_are_not_shown(clone, monkeypatch):
    (path,) = (clone / "certificates/vllm070").glob("*.json")
    assert "`vllm070`" in figures.launches() and "`vllm070`" in figures.proof() and "`vllm070`" in figures.verl_steps()
    path.write_text(path.read_text().replace(status.choose("vllm070").digest, "0" * 64))
    assert "`vllm070`" not in figures.launches() and "`vllm071`" in figures.launches()


def test_issue_templates_ask_for_what_is_needed():
    folder = paths.ROOT / ".github/ISSUE_TEMPLATE"
    for name in ("problem.yml", "training.yml"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "nox -s doctor -- VARIANT --json" in text and "envs/VARIANT/verlock.json" in text


def test_results_of_the_benchmarks_are_those_in_the_files():
    raw = json.loads((paths.ROOT / "benchmarks/results/create.json").read_text(encoding="utf-8"))
    assert all(each["ours"] in figures.create() for each in raw["ratios"])
    assert "`verlock lock --check`" in figures.lock_times()
