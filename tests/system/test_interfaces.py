"""Which interface has an address."""

import socket

import pytest

from verlock.system import interfaces


def test_the_loopback_is_found_by_its_address():
    assert interfaces.holding("127.0.0.1") == "lo"


def test_an_address_of_another_machine_is_on_no_interface():
    assert interfaces.holding("192.0.2.7") == ""
    assert interfaces.holding("2001:db8::7") == ""


def test_an_ipv6_address_is_found_as_well(tmp_path, monkeypatch):
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000000000000000000a 02 40 20 80   eth7\n"
    )
    monkeypatch.setattr(interfaces, "_IPV6", table)
    assert interfaces.holding("fe80::a") == "eth7"
    monkeypatch.setattr(interfaces, "_IPV6", tmp_path / "none")
    assert interfaces.holding("::1") == ""


def test_the_way_out_of_this_machine_has_a_name():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no route")
        assert interfaces.holding(way.getsockname()[0]) in [name for _, name in socket.if_nameindex()]
