"""Names that moved between releases of vLLM."""

import pytest

from verlock.smoke import names

PLACES = (("os.gone:path", "2"), ("nowhere:path", "1"), ("os:path", "0"))


def test_the_first_place_that_is_there_is_taken():
    import os

    assert names.place(PLACES) == "os:path"
    assert names.first(PLACES) is os.path


def test_where_none_is_there_the_error_names_the_oldest():
    assert names.place(PLACES[:2]) == "nowhere:path"
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        names.first(PLACES[:2])
