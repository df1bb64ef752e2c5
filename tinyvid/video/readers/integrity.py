"""Damage that a container reveals without decoding: cut ends, wrong checksums, missing packets.

FFmpeg continues at the next position that it can parse, without telling its caller. These checks read the sizes,
checksums and counters of the container. MP4 lists every frame, so only its fragments are followed.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.video.readers.gif_pictures import color_bytes, picture_fits, skip_blocks

MAX_STEPS = 500_000  # parts of a file that are checked, a few seconds; two hours of FLV, days of others
MAX_GIF_PIXELS = 1 << 27  # of all pictures of a GIF that are decoded to check them, about a second
MAX_SLICES = 1024  # of an FFV1 frame, in any sensible file
MOST = 100  # places; more are not listed
BLOCK = 1 << 20  # bytes that are read at once
_CLUSTER, _SEGMENT, _CRC = 0x1F43B675, 0x18538067, 0xBF
_MATROSKA = {_CLUSTER, _CRC, 0xEC, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the file properties object


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes ``start`` to ``end`` of a file that cannot be trusted, and how this is known."""

    start: int
    end: int
    reason: str


def find_damage(name: str, container: str, stream_id: int) -> list[Damage]:
    """Return the places at which a file contradicts itself, in order.

    Args:
        name: The file.
        container: FFmpeg's name of the container.
        stream_id: Number of the video stream in the container; transport streams count packets by it.

    Raises:
        VideoError: The file is shorter than it declares.
    """
    size = Path(name).stat().st_size
    found: list[Damage] = []
    for known, check in _CHECKS.items():
        if known in container.split(","):
            with open(name, "rb") as file:
                for damage in islice(check(file, size, stream_id), MAX_STEPS):
                    if damage is None:
                        continue
                    if damage.end > size:
                        raise VideoError(f"{name}: is truncated: {damage.reason}; download it again")
                    found.append(damage)
                    if len(found) == MOST:
                        break
    return found


def _cut(reason: str, size: int) -> Damage:
    """Return the mark of a truncated file."""
    return Damage(size, size + 1, reason)


def _matroska(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Compare the sizes of the segment and its parts with the file, and their contents with their checksums."""
    ebml = _element(file)
    if ebml is None or ebml[1] is None or ebml[1] > size:
        return
    file.seek(ebml[1], 1)
    segment = _element(file)
    if segment is None or segment[0] != _SEGMENT:
        return
    if segment[1] is not None and file.tell() + segment[1] > size:
        yield _cut(f"it declares {file.tell() + segment[1]} bytes, but has {size}", size)
    end = size if segment[1] is None else file.tell() + segment[1]
    while (start := file.tell()) < end:
        yield None
        part = _element(file)
        if part is None or part[0] not in _MATROSKA:
            following = _find(file, start + 1, _CLUSTER.to_bytes(4, "big"))
            yield Damage(start, following or size, "its structure is broken")
            if following is None:
                return
            file.seek(following)
        elif part[1] is None:
            return  # a recording of unknown length
        elif file.tell() + part[1] > size:
            yield _cut("its last part is incomplete", size)
        else:
            if not _checksum_fits(file, part[1]):
                yield Damage(start, file.tell() + part[1], "a checksum is wrong")
            file.seek(part[1], 1)


def _element(file: BinaryIO) -> tuple[int, int | None] | None:
    """Read the id and size of a Matroska element; the size is ``None`` if it is unknown."""
    numbers = []
    for marked in (False, True):
        first = file.read(1)
        if not first or not first[0]:
            return None
        length = 9 - first[0].bit_length()
        value = int.from_bytes(first + file.read(length - 1), "big")
        numbers.append(value & ((1 << 7 * length) - 1) if marked else value)
    return numbers[0], None if numbers[1] == (1 << 7 * length) - 1 else numbers[1]


def _checksum_fits(file: BinaryIO, size: int) -> bool:
    """Return whether the contents of an element have the checksum that they begin with, if any."""
    start = file.tell()
    head = file.read(6) if size >= 6 else b""
    fits = True
    if head[:2] == bytes((_CRC, 0x84)):
        left, value = size - 6, 0
        while left > 0 and (block := file.read(min(left, BLOCK))):
            value, left = zlib.crc32(block, value), left - len(block)
        fits = value == int.from_bytes(head[2:], "little")
    file.seek(start)
    return fits


def _find(file: BinaryIO, start: int, mark: bytes) -> int | None:
    """Return the position of the next ``mark``, or ``None``."""
    file.seek(start)
    kept, at = b"", start
    while block := file.read(BLOCK):
        found = (kept + block).find(mark)
        if found >= 0:
            return at - len(kept) + found
        at += len(block)
        kept = (kept + block)[1 - len(mark) :]
    return None


def _ogg(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Check the checksum and the number of every page."""
    numbers: dict[bytes, int] = {}
    start, ended = 0, True
    while start < size:
        yield None
        file.seek(start)
        head = file.read(27)
        sizes = file.read(head[26]) if len(head) == 27 and head[:4] == b"OggS" else None
        body = file.read(sum(sizes)) if sizes is not None else b""
        whole = head + (sizes or b"") + body
        if sizes is None or _checksum(head[:22] + bytes(4) + whole[26:]) != int.from_bytes(head[22:26], "little"):
            following = _find(file, start + 1, b"OggS")
            if following is None:
                yield _cut("its last page is incomplete", size)
                return
            yield Damage(start, following, "a checksum is wrong")
            start = following
            continue
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        if numbers.get(serial, number - 1) != number - 1:
            yield Damage(start, start + len(whole), "pages are missing")
        numbers[serial], ended = number, bool(head[5] & 4)
        start += len(whole)
    if not ended:
        yield Damage(size, size, "its last page is not marked as the last")


def _checksum(data: bytes) -> int:
    """Return the checksum of Ogg and FFV1: zlib's polynomial, but from the highest bit, from 0 and not inverted."""
    value = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def ffv1_fits(packet: bytes) -> bool:
    """Return whether all slices of an FFV1 packet have the checksum that ends them, if the file has checksums."""
    end = len(packet)
    for _ in range(MAX_SLICES):
        if end <= 8:
            break
        start = end - 8 - int.from_bytes(packet[end - 8 : end - 5], "big")
        if start < 0 or _checksum(packet[start:end]):
            return False
        end = start
    return end == 0


def _transport(file: BinaryIO, size: int, stream_id: int) -> Iterator[Damage | None]:
    """Check the error flags and the counters of the packets of the stream."""
    start, step = _aligned(file, 0)
    last: int | None = None
    while step:
        yield None
        file.seek(start)
        data = np.frombuffer(file.read(step * (BLOCK // step)), np.uint8)
        packets = data[: len(data) // step * step].reshape(-1, step)
        if not len(packets):
            break
        lost = np.flatnonzero(packets[:, 0] != 0x47)
        good = packets[: lost[0]] if len(lost) else packets
        ours = np.flatnonzero(((good[:, 1].astype(int) & 31) << 8 | good[:, 2]) == stream_id)
        ours = ours[good[ours, 3] & 16 > 0]  # those that carry data
        counters = good[ours, 3].astype(int) & 15
        before = np.concatenate([[counters[0] - 1 if last is None else last], counters[:-1]]) if len(ours) else counters
        restarts = (good[ours, 3] & 32 > 0) & (good[ours, 4] > 0) & (good[ours, 5] & 128 > 0)
        jumps = ~np.isin((counters - before) % 16, (0, 1)) & ~restarts
        for at in ours[jumps | (good[ours, 1] & 128 > 0)].tolist():
            yield Damage(start + at * step, start + (at + 1) * step, "packets are missing")
        last = int(counters[-1]) if len(ours) else last
        broken = start + len(good) * step
        if len(lost):
            start, step = _aligned(file, broken + 1)
            yield Damage(broken, start if step else size, "packets are out of place")
        else:
            start = broken
    if step and 0 < size - start < 188:
        yield Damage(start, size, "it ends in the middle of a packet")


def _aligned(file: BinaryIO, start: int) -> tuple[int, int]:
    """Return where the next transport packet begins, and the distance of packets: 188, 192 or 204 bytes; 0 if none."""
    file.seek(start)
    marks = np.frombuffer(file.read(BLOCK), np.uint8) == 0x47
    found = []
    for step in (188, 192, 204):
        padded = np.concatenate([marks, np.ones(4 * step, bool)])
        rows = np.logical_and.reduce([padded[i * step : i * step + len(marks)] for i in range(5)])
        found += [(start + int(first), step) for first in np.flatnonzero(rows[: max(len(marks) - 2 * step, 0)])[:1]]
    return min(found, default=(start, 0))


def _gif(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Follow the blocks to the end, and decode the pictures. A file that lacks only the trailer is complete."""
    head = file.read(13).ljust(13, b"\0")
    canvas, filled, left = struct.unpack("<2H", head[6:10]), [0, 0], MAX_GIF_PIXELS
    file.seek(color_bytes(head[10]), 1)
    while (kind := file.read(1)) not in (b"", b";"):
        yield None
        x, y, width, height, flags = 0, 0, 0, 0, 0
        if kind == b",":
            x, y, width, height, flags = struct.unpack("<4HB", file.read(9).ljust(9, b"\0"))
            filled = [max(filled[0], x + width), max(filled[1], y + height)]
            file.seek(color_bytes(flags), 1)
        elif kind != b"!":
            yield Damage(file.tell() - 1, size, "its structure is broken")
            return
        start, left = file.tell(), left - width * height
        if not skip_blocks(file, MAX_STEPS) or file.tell() > size:
            yield _cut("its last block is incomplete", size)
            return
        if left > 0 and width * height and not picture_fits(file, start, width, height, flags):
            yield Damage(start, file.tell(), "a picture is broken")
    for side, used in zip(canvas, filled, strict=True):
        if used > side or 2 * used < side:
            yield Damage(0, size, f"its pictures fill {filled[0]}x{filled[1]} of {canvas[0]}x{canvas[1]} pixels")


def _boxes(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Follow the boxes of a fragmented MP4 to the end: fragments behind a hole would be overlooked."""
    start, fragmented = 0, False
    while len(head := file.read(16)) >= 8:
        yield None
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if not length and any(head[4:8]):
            return  # the last box, up to the end of the file
        if length < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in head[4:8]):
            if fragmented:
                yield Damage(start, size, "its structure is broken")
            return
        fragmented = fragmented or head[4:8] == b"moof"
        start += length
        if head[4:8] == b"moof" and start > size:
            yield _cut("its last fragment is incomplete", size)
        file.seek(min(start, size))


def _riff(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Compare the declared size of each part with the file; a recording that was not closed declares 0."""
    start = 0
    while len(head := file.read(8)) == 8 and head[:4] == b"RIFF":
        yield None
        declared = int.from_bytes(head[4:], "little")
        start += 8 + declared + declared % 2
        if declared and start > size + 8:
            yield _cut(f"it declares {start} bytes, but has {size}", size)
        if not declared:
            return
        file.seek(start)


def _flash(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Compare the declared size with the file, and each tag with the repetition of its size behind it."""
    head = file.read(4096)
    if (found := re.search(rb"filesize\x00(.{8})", head, re.DOTALL)) and struct.unpack(">d", found[1])[0] > size:
        yield _cut(f"it declares {struct.unpack('>d', found[1])[0]:.0f} bytes, but has {size}", size)
    start = int.from_bytes(head[5:9], "big") + 4
    while start + 11 < size:
        yield None
        file.seek(start)
        length = 11 + int.from_bytes(file.read(4)[1:], "big")
        file.seek(start + length)
        repeated = file.read(4)
        if len(repeated) < 4:
            yield _cut("its last tag is incomplete", size)
        elif int.from_bytes(repeated, "big") not in (length, 0):
            yield Damage(start, size, "its structure is broken")
            return
        start += length + 4


def _asf(file: BinaryIO, size: int, _: int) -> Iterator[Damage | None]:
    """Compare the declared size with the file, unless it is a broadcast."""
    head = file.read(1 << 16)
    at = head.find(_ASF_FILE)
    fields = head[at : at + 92]
    if at >= 0 and len(fields) == 92 and not fields[88] & 1 and int.from_bytes(fields[40:48], "little") > size:
        yield _cut(f"it declares {int.from_bytes(fields[40:48], 'little')} bytes, but has {size}", size)


_CHECKS: dict[str, Callable[[BinaryIO, int, int], Iterator[Damage | None]]] = {
    "matroska": _matroska,
    "ogg": _ogg,
    "mpegts": _transport,
    "gif": _gif,
    "mp4": _boxes,
    "avi": _riff,
    "flv": _flash,
    "asf": _asf,
}
