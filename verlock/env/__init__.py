"""Locks in, an environment out: the steps of `nox -s env-<variant>`, and `verify`, which holds the result against the lock."""
