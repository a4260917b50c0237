"""What nvidia-smi says of the clocks, and that a driver which does not know a field costs no more than that field."""

import sys

import pytest

from verlock.bench import hardware

SAID = {"clocks.sm": "1980 MHz", "clocks.mem": "2619 MHz", "temperature.gpu": "41", "power.draw": "512.30 W"}


@pytest.mark.parametrize("known", [*hardware.HELD, ""])
def test_the_clocks_are_those_of_the_card_that_is_measured(nvidia_smi, known):
    values = SAID | ({known: "0x0"} if known else {})
    nvidia_smi.says(
        f"#!{sys.executable}\nimport sys\nassert '--id=GPU-7' in sys.argv\n"
        "(asked,) = [each.partition('=')[2].split(',') for each in sys.argv if each.startswith('--query-gpu=')]\n"
        f"values = {values!r}\n"
        "if not set(asked) <= set(values):\n    print('Field is not a valid field to query.')\n    sys.exit(2)\n"
        "print(', '.join(values[each] for each in asked))\n"
    )
    assert hardware.clocks("GPU-7") == values


def test_without_an_answer_there_are_no_clocks(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi.says(f"#!{sys.executable}\nraise SystemExit(9)\n")
    assert hardware.clocks("") == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.clocks("") == {}
