"""The network interfaces of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # linux/sockios.h: ask for an interface's address
_IPV6 = Path("/proc/net/if_inet6")


def holding(address: str) -> str:
    """The name of the interface that has an IP address, such as "eth0"; empty where none has it as its first."""
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        for line in _IPV6.read_text(encoding="ascii").splitlines() if _IPV6.exists() else ():
            digits, *_, name = line.split()
            if int(digits, 16) == int(wanted):
                return name
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                answer = fcntl.ioctl(asks, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if (
                    ipaddress.ip_address(answer[20:24]) == wanted
                ):  # struct ifreq: 16 bytes of name, family, port, address
                    return name
    return ""
