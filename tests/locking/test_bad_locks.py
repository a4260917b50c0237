"""Whatever a lock holds, `lock --check` and `diff` read it, or say in words what is wrong with it."""

from __future__ import annotations

import contextlib

import baddata
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verlock import paths
from verlock.errors import StaleLock, VerlockError
from verlock.locking import lock_diff, staleness
from verlock.variant import lockfiles

TEXTS = {
    name: (paths.LOCKS / "vllm072" / name).read_text(encoding="utf-8")
    for name in (lockfiles.SOURCES, lockfiles.BUILD_REQUIREMENTS)
}
TEXTS[lockfiles.CONDA_LOCK] = (paths.LOCKS / "vllm072/conda-lock.yml").read_text(encoding="utf-8")[:3000]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(TEXTS)))
def test_no_edit_passes_and_none_is_a_traceback(clone, data, name):
    text = data.draw(baddata.edited(TEXTS[name]))
    path = clone / "locks/vllm072" / name
    whole = path.read_bytes()
    path.write_text(text, encoding="utf-8", newline="")
    try:
        if path.read_bytes() != whole:
            with pytest.raises(StaleLock, match=f"locks/vllm072/{name} was edited"):
                staleness.check(["vllm072"])
        with contextlib.suppress(VerlockError):
            lock_diff._read(name, text, name)
    finally:
        path.write_bytes(whole)
