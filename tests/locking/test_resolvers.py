"""What is asked of the resolvers' answers, and how pins are written; the resolvers themselves run in tests/e2e."""

from __future__ import annotations

from datetime import date

import fakeindex
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verlock.errors import ResolutionError, ResolverDisagreement
from verlock.locking import loopback_index, resolvers
from verlock.variant import lockfiles
from verlock.variant.lockfiles import Pin

names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?", fullmatch=True)
hashes = st.lists(
    st.binary(min_size=32, max_size=32).map(lambda b: f"sha256:{b.hex()}"), min_size=1, max_size=4, unique=True
)
pins = st.builds(
    Pin,
    names,
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}(\.post1|rc1)?(\+cpu)?", fullmatch=True),
    hashes.map(tuple),
    st.sampled_from(["", "python_full_version < '3.11'"]),
    st.lists(names, max_size=3, unique=True).map(tuple),
)


@given(st.lists(pins, max_size=6, unique_by=lambda pin: pin.name))
def test_what_is_rendered_is_read_back(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("lock") / "requirements.txt"
    path.write_text(resolvers.render("# header\n", made))
    assert lockfiles.pins(path) == sorted(made, key=lambda pin: pin.name)


def pin(name, version, *sha256):
    return Pin(name, version, tuple(f"sha256:{each}" for each in sha256))


def test_each_package_that_the_resolvers_see_differently_is_named():
    uv = [pin("same", "1"), pin("other", "1"), pin("more", "1")]
    pip = [pin("same", "1"), pin("other", "2"), pin("less", "1")]
    resolvers.agree("a.in", uv, list(reversed(uv)))
    with pytest.raises(ResolverDisagreement) as caught:
        resolvers.agree("a.in", uv, pip)
    assert caught.value.problem.splitlines()[1:] == [
        "  less: uv leaves it out, pip 1",
        "  more: uv 1, pip leaves it out",
        "  other: uv 1, pip 2",
    ]


@pytest.fixture
def index(clone):
    """An index with a wheel and an sdist of one release, one wheel of which came later."""
    with fakeindex.serve() as made, loopback_index.serve(made.url) as server:
        server.wheel = made.release("pkg", "1.0", "2025-04-02")
        server.late = made.release("pkg", "1.0", "2025-04-03", tag="py3-none-manylinux_2_17_x86_64")
        server.sdist = made.sdist("pkg", "1.0", "2025-04-02")
        yield server


TARGET = resolvers.Target("3.10", "2.28", date(2025, 4, 3))
AS_SDIST = resolvers.Target("3.10", "2.28", date(2025, 4, 3), sdists=("pkg",))


def test_a_pin_keeps_the_files_that_may_be_installed(index):
    both = pin("pkg", "1.0", index.sdist, index.wheel)
    assert resolvers.admissible([both], TARGET, index) == [pin("pkg", "1.0", index.wheel)]
    assert resolvers.admissible([both], AS_SDIST, index) == [pin("pkg", "1.0", index.sdist)]


def test_a_file_from_after_the_cut_off_and_one_the_index_does_not_know_are_refused(index):
    with pytest.raises(ResolverDisagreement, match=r"manylinux.*uploaded 2025-04-03.*the cut-off is 2025-04-03"):
        resolvers.admissible([pin("pkg", "1.0", index.wheel, index.late)], TARGET, index)
    with pytest.raises(ResolverDisagreement, match=r"uploaded at an unknown time"):
        resolvers.admissible([pin("pkg", "1.0", "0" * 64)], TARGET, index)


def test_a_pin_without_a_file_that_may_be_installed_is_refused(index):
    with pytest.raises(ResolverDisagreement, match=r"pkg 1\.0 has no wheel"):
        resolvers.admissible([pin("pkg", "1.0", index.sdist)], TARGET, index)
    with pytest.raises(ResolverDisagreement, match=r"pkg 1\.0 has no sdist"):
        resolvers.admissible([pin("pkg", "1.0", index.wheel)], AS_SDIST, index)


@pytest.mark.parametrize(("allowed", "refused"), [((), True), (("other",), True), (("pkg",), False), (None, False)])
def test_a_pre_release_has_to_be_named_but_in_a_trial(index, allowed, refused):
    target = resolvers.Target("3.10", "2.28", date(2025, 4, 3), prereleases=allowed)
    early = pin("pkg", "1.0rc1", index.wheel)
    if refused:
        with pytest.raises(ResolutionError, match=r"only a pre-release of pkg \(1\.0rc1\) fits"):
            resolvers.admissible([early], target, index)
    else:
        assert resolvers.admissible([early], target, index) == [early]


def test_a_certificate_that_pip_has_serves_uv_too(monkeypatch):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    assert "SSL_CERT_FILE" not in resolvers.environment()
    monkeypatch.setenv("PIP_CERT", "/pip.pem")
    assert resolvers.environment()["SSL_CERT_FILE"] == "/pip.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "/own.pem")
    assert resolvers.environment()["SSL_CERT_FILE"] == "/own.pem"


UV_SAYS = """uv finds no solution for a.in:
  error: No solution found when resolving dependencies
    cause: Because guide>=1.7.0,<=1.7.6 has no usable wheels and only these are available: guide<=1.7.6
    cause: Because exact==2.0 has no usable wheels and you require exact==2.0, and any has no usable wheels
    cause: Because all versions of bare have no wheels with a matching platform tag (e.g., `manylinux_2_28_x86_64`)"""


def test_of_a_package_without_a_usable_wheel_the_glibc_that_would_have_one_is_said(clone):
    target = resolvers.Target("3.10", "2.28", date(2025, 4, 3))
    with fakeindex.serve() as made, loopback_index.serve(made.url) as server:
        made.release("guide", "1.6", "2025-01-01", tag="cp39-abi3-manylinux_2_17_x86_64")
        made.release("guide", "1.7.1", "2025-01-01", tag="cp39-abi3-manylinux_2_34_x86_64")
        made.release("guide", "1.7.2", "2025-01-01", tag="cp39-abi3-manylinux_2_31_x86_64")
        made.release("exact", "2.0", "2025-01-01", tag="cp311-cp311-win_amd64")
        made.sdist("any", "1.0", "2025-01-01")
        made.release("bare", "1.0", "2025-01-01", tag="cp310-cp310-manylinux_2_35_x86_64")
        assert resolvers._wheels_there_are(UV_SAYS, target, server) == [
            "guide>=1.7.0,<=1.7.6 has wheels for glibc 2.31 and newer; the recipe's [platform] says 2.28",
            "bare has wheels for glibc 2.35 and newer; the recipe's [platform] says 2.28",
        ]
