"""The damaged files of ``readers.py``: cut, flipped, missing and false bytes, bombs, and what is not a video file."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from _corpus import REFUSED, CorpusFile
from _media import GeneratedClip, clip_for, remux, write

FRAMES, WIDTH, HEIGHT = 48, 240, 160
BASES = {  # name: clip; each is damaged in the same ways
    "h264.mp4": clip_for("libx264", bframes=2),
    "fragments.mp4": clip_for("libx264", bframes=2, muxer={"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mp4": clip_for("libx265", bframes=2),
    "av1.mp4": clip_for("libsvtav1"),
    "mpeg4.mov": clip_for("mpeg4"),
    "prores.mov": clip_for("prores_ks"),
    "h264.mkv": clip_for("libx264", bframes=2),
    "vp9.mkv": clip_for("libvpx-vp9"),
    "ffv1.mkv": clip_for("ffv1"),
    "vp8.webm": clip_for("libvpx"),
    "mpeg4.avi": clip_for("mpeg4"),
    "mjpeg.avi": clip_for("mjpeg"),
    "ffv1.avi": clip_for("ffv1"),
    "h264.ts": clip_for("libx264", bframes=2),
    "hevc.ts": clip_for("libx265"),
    "mpeg2.ts": clip_for("mpeg2video", bframes=2),
    "mpeg2.mpg": clip_for("mpeg2video"),
    "h264.flv": clip_for("libx264", bframes=2),
    "h264.nut": clip_for("libx264"),
    "png.nut": clip_for("png"),
    "vp8.ogv": clip_for("libvpx"),
    "gif.gif": clip_for("gif"),
    "wmv2.wmv": clip_for("wmv2"),
}


def bases() -> dict[str, CorpusFile]:
    """Return the intact files that are damaged, by name."""
    return {name: base_case(name) for name in BASES}


def base_case(name: str) -> CorpusFile:
    """Return the case of an intact base file."""
    clip = replace(BASES[name], frames=FRAMES, width=WIDTH, height=HEIGHT)
    return CorpusFile(
        name=f"base_{name}",
        kind="codec and container",
        make=partial(write, clip=clip),
        numbers=range(FRAMES),
        times=[i / float(clip.fps) for i in range(FRAMES)],
        source=name,
    )


def damaged(folder: Path) -> list[CorpusFile]:
    """Return all damaged files; the bases must be in ``folder``."""
    cases = [one for name in BASES for one in _broken_bytes(folder, name)]
    return [*cases, *_lost_packets(folder), *_lies(folder), *_bombs(), *_no_videos(folder)]


def _broken_bytes(folder: Path, name: str) -> Iterator[CorpusFile]:
    """Truncate a file at eight places, flip four bits, and overwrite, remove, insert and blank bytes."""
    chance = np.random.default_rng(sum(name.encode()))
    for percent in (5, 20, 35, 50, 65, 80, 90, 99):
        yield _broken(folder, name, f"cut{percent}", "truncated", percent / 100, remove=1 << 30)
    for i, place in enumerate(chance.uniform(0.02, 1, 4)):
        yield _broken(folder, name, f"flip{i}", "flipped bit", place, flip=1 << int(chance.integers(8)))
    for what, value in (("zeros", bytes(512)), ("noise", chance.bytes(512))):
        for i, place in enumerate(chance.uniform(0.1, 0.95, 2)):
            yield _broken(folder, name, f"{what}{i}", "bytes overwritten", place, remove=len(value), insert=value)
    for i, (place, size) in enumerate(zip(chance.uniform(0.1, 0.9, 3), (1, 188, 500), strict=True)):
        yield _broken(folder, name, f"lost{i}", "bytes missing", place, remove=size)
    yield _broken(folder, name, "doubled", "bytes inserted", chance.uniform(0.2, 0.8), repeat=300)
    yield _broken(folder, name, "tail", "bytes inserted", 1.0, insert=chance.bytes(1000))
    for percent in (30, 60, 90):  # a download into a file of the final size
        yield _broken(folder, name, f"unfilled{percent}", "holes", percent / 100, fill=1.0)
    for percent in (5, 40, 70):
        yield _broken(folder, name, f"hole{percent}", "holes", percent / 100, fill=0.1)
    yield _broken(folder, name, "headless", "bytes missing", 0.0, remove=2000)
    yield _damaged(
        f"{name.split('.')[0]}_text.{name.split('.')[1]}",
        "bytes inserted",
        partial(_as_text, source=folder / f"base_{name}"),
        name,
    )


def _broken(folder: Path, name: str, what: str, kind: str, place: float, **change: Any) -> CorpusFile:
    """Return the case of a base file whose bytes change at ``place``, a share of its length."""
    stem, suffix = name.split(".")
    make = partial(_change_bytes, source=folder / f"base_{name}", place=place, **change)
    return _damaged(f"{stem}_{what}.{suffix}", kind, make, name)


def _damaged(name: str, kind: str, make: Callable[[Path], Any], source: str) -> CorpusFile:
    return CorpusFile(name=name, kind=kind, make=make, numbers=range(FRAMES), damaged=True, source=source)


def _change_bytes(
    path: Path,
    *,
    source: Path,
    place: float,
    remove: int = 0,
    insert: bytes = b"",
    flip: int = 0,
    repeat: int = 0,
    fill: float = 0,
) -> None:
    data = bytearray(source.read_bytes())
    at = int(len(data) * place)
    if fill:
        remove = int(min(len(data) - at, len(data) * fill))
        insert = bytes(remove)
    data[at - 1] ^= flip
    data[at : at + remove] = insert + data[at - repeat : at]
    path.write_bytes(data)


def _as_text(path: Path, *, source: Path) -> None:
    """Convert line ends, as a transfer in text mode does."""
    path.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))


def _lost_packets(folder: Path) -> Iterator[CorpusFile]:
    """Files that lack whole packets; the container itself is intact."""
    lost = {"one": range(20, 21), "ten": range(20, 30), "key": range(24, 25), "first": range(3)}
    for name in BASES:
        stem, suffix = name.split(".")
        for what, numbers in lost.items():
            make = partial(_drop, source=folder / f"base_{name}", numbers=numbers)
            if suffix != "gif":
                yield _damaged(f"{stem}_drop_{what}.{suffix}", "packets missing", make, name)


def _drop(path: Path, *, source: Path, numbers: range) -> None:
    remux(source, path, lambda number, packet: None if number in numbers else packet)


def _lies(folder: Path) -> Iterator[CorpusFile]:
    """Headers of MP4, MKV, AVI and FLV that state other durations, sizes or counts than the file has."""
    big, odd = (1 << 31) - 1, 0xFFFFFFFF
    fields = {  # box, offset after its name, format, values
        "mdhd_duration": (b"mdhd", 16, ">I", (0, 1, big, odd)),
        "mdhd_scale": (b"mdhd", 12, ">I", (0, 1, odd)),
        "mvhd_duration": (b"mvhd", 16, ">I", (0, big)),
        "stts_count": (b"stts", 8, ">I", (0, 1, big, odd)),
        "stts_delta": (b"stts", 12, ">I", (0, big, odd)),
        "stsz_count": (b"stsz", 8, ">I", (0, 10, 1 << 20, odd)),
        "stsz_size": (b"stsz", 12, ">I", (0, big, odd)),
        "stsc_per_chunk": (b"stsc", 12, ">I", (0, big)),
        "stco_offset": (b"stco", 8, ">I", (0, odd)),
        "ctts_offset": (b"ctts", 12, ">I", (0, big)),
        "stss_key": (b"stss", 8, ">I", (0, big)),
        "avc1_width": (b"avc1", 24, ">H", (0, 16, 65535)),
        "tkhd_width": (b"tkhd", 76, ">I", (0, odd)),
        "elst_start": (b"elst", 12, ">I", (big, odd)),
        "elst_rate": (b"elst", 16, ">I", (0, odd)),
    }
    for field, (box, offset, form, values) in fields.items():
        for value in values:
            yield _lie(folder, "h264.mp4", f"{field}_{value}", box, offset + 4, struct.pack(form, value))
    for value in (0, 1, 1 << 20, odd):
        yield _lie(folder, "mpeg4.avi", f"avih_frames_{value}", b"avih", 24, struct.pack("<I", value))
        yield _lie(folder, "mpeg4.avi", f"strh_length_{value}", b"strh", 40, struct.pack("<I", value))
        yield _lie(folder, "mpeg4.avi", f"strh_rate_{value}", b"strh", 32, struct.pack("<I", value))
        yield _lie(folder, "mpeg4.avi", f"strf_width_{value}", b"strf", 12, struct.pack("<I", value))
    for seconds in (0.0, 1e-9, 1e12, float("nan"), -5.0):
        yield _lie(folder, "h264.mkv", f"duration_{seconds}", b"\x44\x89\x88", 3, struct.pack(">d", seconds))
    for value in (0, 1, 65535):
        yield _lie(folder, "h264.mkv", f"width_{value}", b"\xb0", 2, struct.pack(">B", value & 255))
        yield _lie(folder, "gif.gif", f"width_{value}", b"GIF89a", 6, struct.pack("<H", value))
    for number in (0.0, 1e9, float("nan")):
        yield _lie(folder, "h264.flv", f"duration_{number}", b"duration\x00", 9, struct.pack(">d", number))
        yield _lie(folder, "h264.flv", f"framerate_{number}", b"framerate\x00", 10, struct.pack(">d", number))


def _lie(folder: Path, name: str, what: str, mark: bytes, offset: int, value: bytes) -> CorpusFile:
    """Return the case of a base file with another value at an offset from the first ``mark``."""
    stem, suffix = name.split(".")
    make = partial(_overwrite, source=folder / f"base_{name}", mark=mark, offset=offset, value=value)
    return _damaged(f"{stem}_lie_{what}.{suffix}", "lying header", make, name)


def _overwrite(path: Path, *, source: Path, mark: bytes, offset: int, value: bytes) -> None:
    data = bytearray(source.read_bytes())
    at = data.index(mark) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


def _bombs() -> Iterator[CorpusFile]:
    """Few bytes that unpack to gigabytes."""
    for codec, suffix, size in (
        ("libx264", "mp4", 8192),
        ("mpeg4", "avi", 4096),
        ("libvpx-vp9", "webm", 8192),
        ("png", "mov", 8192),
        ("mjpeg", "mkv", 8192),
    ):
        clip = clip_for(codec, width=size, height=size, frames=1)
        yield CorpusFile(
            name=f"bomb_{codec}.{suffix}",
            kind="bomb",
            damaged=True,
            numbers=None,
            make=partial(_bomb, clip=clip),
        )
    yield CorpusFile(name="bomb_frames.mp4", kind="bomb", damaged=True, numbers=None, make=_many_frames)
    yield CorpusFile(name="bomb_length.mkv", kind="bomb", damaged=True, numbers=None, make=_long_gap)
    yield CorpusFile(name="bomb_picture.png", kind="bomb", damaged=True, numbers=None, make=_huge_png)


def _bomb(path: Path, clip: GeneratedClip) -> None:
    """Write one flat huge frame and repeat its packet."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            clip.codec, rate=clip.fps, options={"preset": "ultrafast", "cpu-used": "8", "deadline": "realtime"}
        )
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        frame = av.VideoFrame(clip.width, clip.height, clip.pix_fmt)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        frame.pts = 0
        first = [*stream.encode(frame), *stream.encode()][0]
        data = bytes(first)
        for number in range(24):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, first.time_base
            packet.is_keyframe = True
            out.mux(packet)


def _many_frames(path: Path, count: int = 200_000) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts = 0
        data = bytes([*stream.encode(frame), *stream.encode()][0])
        for number in range(count):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            out.mux(packet)


def _long_gap(path: Path) -> None:
    times = [0, 40, 80, 2_000_000_000]
    write(path, clip_for("libvpx", frames=4, times=times))


def _huge_png(path: Path, side: int = 30_000) -> None:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side // 8) * side), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _no_videos(folder: Path) -> Iterator[CorpusFile]:
    """Pipes, empty files, folders, links to nothing, garbage, headers alone."""
    chance = np.random.default_rng(1)
    garbage = {
        "empty.mp4": b"",
        "byte.mkv": b"\x1a",
        "zeros.mp4": bytes(5000),
        "noise.mp4": chance.bytes(5000),
        "noise.ts": b"G" * 5000,
        "noise.avi": b"RIFF\xff\xff\xff\xffAVI LIST" + chance.bytes(3000),
        "noise.mkv": b"\x1aE\xdf\xa3" + chance.bytes(3000),
        "noise.gif": b"GIF89a" + chance.bytes(3000),
        "noise.flv": b"FLV\x01\x01" + chance.bytes(3000),
        "noise.ogv": b"OggS" + chance.bytes(3000),
        "noise.mpg": b"\x00\x00\x01\xba" + chance.bytes(3000),
        "noise.png": b"\x89PNG\r\n\x1a\n" + chance.bytes(3000),
        "boxes.mp4": struct.pack(">I4s", 8, b"moov") * 1000,
        "deep.mp4": b"".join(struct.pack(">I4s", 8 * (3000 - i), b"moov") for i in range(3000)),
    }
    makers: dict[str, Callable[[Path], Any]] = {
        **{f"garbage_{name}": partial(Path.write_bytes, data=data) for name, data in garbage.items()},
        **dict.fromkeys(("pipe.mp4", "pipe.png") if hasattr(os, "mkfifo") else (), os.mkfifo),
        "device.mp4": partial(Path.symlink_to, target="/dev/zero"),
        "nothing.mp4": partial(Path.symlink_to, target="missing.mp4"),
        "folder.mp4": Path.mkdir,
    }
    for name, make in makers.items():
        yield CorpusFile(name=name, kind="not a video", make=make, numbers=REFUSED, damaged=True)
