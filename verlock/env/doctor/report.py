"""`verlock doctor`: all fast checks at once, or with `--deep` the slow ones inside one environment too."""

from __future__ import annotations

from verlock.env import python_choice
from verlock.env.doctor import inside, machine, surroundings
from verlock.env.doctor.findings import BAD, LIMIT, WARNING, Answer, Subject, as_json, ask_all, show
from verlock.errors import NotSealed, Unfit, VerlockError
from verlock.variant import receipt
from verlock.variant.chosen import Chosen, choose, names

CHECKS = (*machine.CHECKS, *inside.CHECKS, *surroundings.CHECKS)


def run(variant: str | None, python: str | None = None, *, deep: bool = False, json: bool = False) -> int:
    """Look at this machine for one variant, or for all; print a table (or JSON) and return 0, warnings or not.

    Args:
        variant, python: one variant and its Python, or None.
        deep: also start what is installed; the variant must be named and built.
        json: print JSON.

    Raises:
        Unfit: something is bad, not only worth a warning. NotSealed: `deep`, and there is no environment.
        UnknownVariant, RecipeError.
    """
    about = subject(variant, python)
    if deep:
        receipt.read(about.chosen[0].prefix)
    answers = ask_all(CHECKS, about, LIMIT)
    if deep:
        from verlock.env.doctor import deep as slow

        answers += slow.look(about.chosen[0])
    if json:
        print(as_json(answers))
    else:
        show(answers, f"for {variant}" if variant else "for all variants")
    _judge(answers)
    return 0


def subject(variant: str | None, python: str | None = None) -> Subject:
    """What to look at: the variant, else all whose recipes are valid, and which of them are built here."""
    if variant:
        chosen = python_choice.built(variant, python).valid()
        return Subject((chosen,), (chosen,) if _is_built(chosen) else (), named=True)
    several, broken = [], []
    for name in names():
        try:
            several.append(choose(name).valid())
        except VerlockError as error:
            broken.append(error)
    environments = (each for one in several for each in one.pythons())
    return Subject(tuple(several), tuple(filter(_is_built, environments)), named=False, broken=tuple(broken))


def _is_built(chosen: Chosen) -> bool:
    try:
        receipt.read(chosen.prefix)
    except NotSealed:
        return False
    return True


def _judge(answers: list[Answer]) -> None:
    bad = [each for each in answers if each.state == BAD]
    warnings = sum(each.state == WARNING for each in answers)
    if bad:
        also = f", and {warnings} warning{'s' if warnings != 1 else ''}" if warnings else ""
        raise Unfit(
            f"doctor found {len(bad)} thing{'s' if len(bad) != 1 else ''} that will go wrong{also}: "
            + "; ".join(dict.fromkeys(each.check for each in bad)),
            "the table says what to do about each",
        )
