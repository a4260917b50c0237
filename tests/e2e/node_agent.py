"""`verlock smoke` of one node, on the CPU: what tests/rehearsal.py stands in for, and certificates of its own.

    python node_agent.py SETTINGS smoke vllm073 --nnodes 2 ...

SETTINGS is a JSON file: `config` (more of the launch's configuration), `certificates` (a folder) and `patience` (seconds to wait
for others). It is run with the clone on PYTHONPATH.
"""

import json
import os
import sys
from pathlib import Path

from verlock import cli, paths
from verlock.proving import launch_config, nodes, smoke_run

HERE = Path(__file__).parent
settings = json.loads(Path(sys.argv[1]).read_text())
paths.CERTIFICATES = Path(settings["certificates"])
configuration, variables = launch_config.configuration, launch_config.variables


def on_the_cpu(*arguments):
    return {**configuration(*arguments), **settings["config"]}


def with_the_stand_in(chosen):
    found = variables(chosen)
    return {**found, "PYTHONPATH": found["PYTHONPATH"] + os.pathsep + str(HERE.parent)}


class Agents(nodes.Agents):
    def __init__(self, place, same):
        super().__init__(place, same, settings["patience"])


launch_config.configuration, launch_config.variables = on_the_cpu, with_the_stand_in
smoke_run.Agents = Agents
sys.exit(cli.main(sys.argv[2:]))
