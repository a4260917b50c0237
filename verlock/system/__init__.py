"""What every step needs of the machine, one helper for each idea.

`files` (hashes, whole writes, locks), `process` (children with a clean environment, ends of logs), `loopback` (our own servers),
`gpu`, `host_python`, and `uv`, which installs packages. Nothing here knows what a variant is.
"""
