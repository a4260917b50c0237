"""Writing a wheel whose bytes depend only on its content.

A zip normally varies with the order of the entries, their times and modes, the Python and above all the zlib that wrote
it. Here entries are sorted, times and modes fixed, our own files stored as they are, and files from another wheel
keep the compressed bytes they have there. Nothing is compressed, so the zlib does not matter, and 264 MB take a second.
"""

from __future__ import annotations

import struct
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MODE = 0o100644  # a regular file; installers set modes by their own umask
_LIMIT = 2**32 - 1  # beyond it a zip needs the zip64 extension
_BLOCK = 1 << 20
# Records of the zip format, PKWARE's APPNOTE.TXT sections 4.3.7, 4.3.12 and 4.3.16
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20  # 2.0: deflate
_UTF8 = 0x800


@dataclass(frozen=True)
class Entry:
    """One file of the archive: its bytes as they are, or the compressed bytes of a member of another archive."""

    data: bytes = b""
    donor: Path | None = None
    member: zipfile.ZipInfo | None = None


def write(path: Path, entries: Mapping[str, Entry], epoch: int) -> None:
    """Write the archive at `path`: entries sorted by name, but a wheel's dist-info last, as the wheel format recommends.

    Args:
        path: the file to make.
        entries: name in the archive -> what it holds.
        epoch: seconds since 1970; every entry carries this time, in UTC.
    """
    moment = time.gmtime(max(epoch, 315532800))  # a zip cannot hold a time before 1980
    date = (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday
    clock = moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec // 2
    central = bytearray()
    with path.open("wb") as out:
        for name in sorted(entries, key=lambda name: (".dist-info/" in name, name)):
            entry, raw = entries[name], name.encode()
            method, crc, packed, size = _measures(entry)
            offset = out.tell()
            if max(packed, size, offset) > _LIMIT:
                raise ValueError(f"{name} needs zip64, which this writer does not support")
            out.write(
                _LOCAL.pack(b"PK\3\4", _VERSION, _UTF8, method, clock, date, crc, packed, size, len(raw), 0) + raw
            )
            if entry.donor is not None and entry.member is not None:
                _copy(entry.donor, entry.member, out)
            else:
                out.write(entry.data)
            made_by = 3 << 8 | _VERSION  # 3: Unix, so that the mode below is read as one
            central += (
                _CENTRAL.pack(
                    b"PK\1\2", made_by, _VERSION, _UTF8, method, clock, date, crc, packed, size, len(raw), 0, 0, 0, 0,
                    _MODE << 16, offset,
                )
                + raw
            )  # fmt: skip
        start = out.tell()
        out.write(central)
        out.write(_END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(central), start, 0))


def _measures(entry: Entry) -> tuple[int, int, int, int]:
    """Method, CRC-32, size in the archive, size of the file."""
    if entry.member is not None:
        return entry.member.compress_type, entry.member.CRC, entry.member.compress_size, entry.member.file_size
    return zipfile.ZIP_STORED, zlib.crc32(entry.data), len(entry.data), len(entry.data)


def _copy(donor: Path, member: zipfile.ZipInfo, out: BinaryIO) -> None:
    """The member's compressed bytes, as they are in the donor."""
    with donor.open("rb") as file:
        file.seek(member.header_offset)
        header = _LOCAL.unpack(file.read(_LOCAL.size))
        file.seek(
            header[9] + header[10], 1
        )  # the lengths of its name and extra field, which may differ from the directory's
        left = member.compress_size
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise ValueError(f"{donor} ends within {member.filename}")
            out.write(block)
            left -= len(block)
