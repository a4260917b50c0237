"""Every error has an exit code of its own, in its range, and says what to do."""

from __future__ import annotations

import errno
import inspect

import pytest

from verlock import errors
from verlock.errors import DiskTooSmall, FileRefused, IntegrityError, VerlockError

CLASSES = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, VerlockError) and item is not VerlockError
]


def test_exit_codes_are_unique_and_leave_1_and_2_alone():
    codes = [item.exit_code for item in CLASSES]
    assert len(set(codes)) == len(codes) > 30
    assert all(10 <= code < 126 for code in codes), "126 and above are the shell's"


@pytest.mark.parametrize("item", CLASSES, ids=lambda item: item.__name__)
def test_each_says_in_a_sentence_what_it_is(item):
    assert item.__doc__ and item.__doc__.strip().endswith(".")


def test_the_text_is_the_problem_and_below_it_the_remedy():
    assert str(VerlockError("it rains", "take an umbrella")) == "it rains\n  take an umbrella"
    assert str(VerlockError("it rains")) == "it rains"


def test_integrity_errors_say_wanted_and_got():
    text = str(IntegrityError.of("x.whl", "aa", "bb", "try again"))
    assert text == "x.whl is not what the lock names\n  wanted  aa\n  got     bb\n  try again"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskTooSmall),
        (errno.EDQUOT, DiskTooSmall),
        (errno.EACCES, FileRefused),
        (errno.EROFS, FileRefused),
        (errno.EIO, FileRefused),
        (errno.ENOENT, None),
        (errno.EEXIST, None),
    ],
)
def test_what_the_system_refuses(number, kind):
    """A missing file is not among them: that is a bug of verlock's, and its traceback must be seen."""
    found = errors.of_system(OSError(number, "said", "/some/file"))
    assert type(found) is kind if kind else found is None
    if found:
        assert "/some/file" in found.problem and found.remedy
