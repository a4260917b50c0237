"""Which Python and glibc a wheel is for."""

from __future__ import annotations

import pytest

from verlock.locking import wheel_tags

GUIDE = "llguidance-1.7.6-cp39-abi3-manylinux_2_31_x86_64.whl"
OLD = "a-1-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"


@pytest.mark.parametrize(
    ("name", "python", "glibc", "fits"),
    [
        (GUIDE, "3.12", "2.31", True),
        (GUIDE, "3.12", "2.35", True),
        (GUIDE, "3.12", "2.28", False),
        (OLD, "3.10", "2.17", True),
        (OLD, "3.11", "2.17", False),
        ("a-1-py3-none-any.whl", "3.13", "2.28", True),
        ("a-1-cp312-cp312-win_amd64.whl", "3.12", "2.28", False),
        ("a-1.tar.gz", "3.12", "2.28", False),
    ],
)
def test_a_wheel_fits_a_python_and_a_glibc(name, python, glibc, fits):
    assert wheel_tags.fits(name, python, glibc) is fits


@pytest.mark.parametrize(
    ("names", "oldest"),
    [
        ([GUIDE], "2.31"),
        ([GUIDE, "llguidance-1.7.6-cp39-abi3-manylinux_2_34_x86_64.whl"], "2.31"),
        (["vllm-0.20.2-cp38-abi3-manylinux_2_35_x86_64.whl"], "2.35"),
        (["a-1-cp312-cp312-manylinux2014_x86_64.whl"], "2.17"),
        (["a-1-py3-none-any.whl"], "2.0"),
        (["a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "a-1-cp312-cp312-win_amd64.whl", "a-1.tar.gz"], None),
    ],
)
def test_the_oldest_glibc_that_would_do(names, oldest):
    assert wheel_tags.oldest_glibc(names, "3.12") == oldest
