"""The conda layer: specs in, solved records or an installed prefix out.

`client` is what the other folders call; it runs `engine` (py-rattler) in a child process. `conda_command` is the command that
conda-lock calls instead of conda.
"""

CUTOFF = "__cutoff"  # the virtual package that carries a cut-off through conda-lock: see locking/lock_inputs.py
