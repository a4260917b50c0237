"""Locked, verified and GPU-proven environments for RL post-training with verl and vLLM.

The folders follow the walk of a variant. Each may import from itself and from those before it in `ORDER`, wherever in a
function that import stands; a test holds all modules to it.
"""

__version__ = "0.1.0"

ORDER = (
    # what every step uses
    "straight",  # imported before anything else is
    "errors",
    "paths",
    "console",
    "system",  # the machine: files, processes, uv, GPUs
    "variant",  # what a variant is: recipe, locks, digest, receipt, certificate
    "smoke",  # runs inside a variant's environment, and so imports nothing but itself
    "bench",  # runs there too, and imports nothing but itself and parts of smoke
    "conda",  # the conda layer, solved and installed
    "sources",  # git commits, patches, and the wheels built from them
    "locking",  # environments/ -> locks/
    "env",  # locks/ -> prefix
    "proving",  # prefix -> certificate
    "shipping",  # prefix and locks -> where people train, and the forms that other tools read
    "cli",
)
