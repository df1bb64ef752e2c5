"""Measure time and peak memory of reading 16 evenly spaced frames with each reader.

The script generates its own clips. The time is that of ``probe`` plus ``read`` on a new file, without imports. The
readers alternate; a time is the median of several rounds, and a ratio of times the median of the ratios of the rounds.
``decord seek`` is decord without tinyvid: a new ``VideoReader``, then ``get_batch``. The memory is the peak resident
size of a process that does one read, minus its resident size just before: what reading needs in addition to the
imports. The whole clip is decoded as in TinyLLaVA-Video: all frames with decord, then float32. If that needs more than
half of the free memory, only decord's uint8 frames are decoded, which understates its cost, and the table says so.

The frames of the default reader are compared with those of decoding the clip in order on one thread; a difference of
one bit ends the script. ``must be decoded`` counts the requested frames, and the frames before them that others refer
to, since the last key frame. Their number times the time of a frame in order, divided by the threads, is the limit.

The last line is one JSON object: ``speedup_vs_whole_clip`` and ``memory_vs_whole_clip`` (default reader compared
with the whole clip, for the 720p clip), ``default_vs_fastest_reader`` (time of the default reader / time of the
fastest, for the worst clip), ``speedup_vs_decord_seek`` (time of decord seek / time of the default reader, for the
worst clip; null without decord) and ``over_limit`` (time of the default reader / limit, for the worst clip).
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _tasks import arguments_of, run_task

READERS = ("decord", "pyav", "torchcodec")
SEEK = "decord seek"
NUM_FRAMES = 16
FPS = 30
HD = "720p"  # clip of the whole-clip ratios
CLIPS = {"360p 30 s": (640, 360, 30), "720p 60 s": (1280, 720, 60), "360p 10 min": (640, 360, 600)}
QUICK_CLIPS = {"360p 1 s": (640, 360, 1), "720p 1 s": (1280, 720, 1), "360p 2 s": (640, 360, 2)}


def main() -> None:
    """Write the clips, measure in child processes, print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="use clips of one or two seconds, to check that the script runs"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds of timing; the median counts (default: 5)")
    arguments = arguments_of(parser, TASKS)
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        report(Path(folder), QUICK_CLIPS if arguments.quick else CLIPS, arguments.repeats)


def report(folder: Path, clips: dict[str, tuple[int, int, int]], repeats: int) -> None:
    """Measure every clip and print the table and the ratios."""
    default, threads, missing = child("readers")
    print(
        f"{NUM_FRAMES} evenly spaced frames; default reader: {default}, {threads} threads; {os.cpu_count()} CPU cores; "
        f"median of {repeats} rounds"
    )
    for name, reason in missing.items():
        print(f"{name} is not available: {reason}")
    print(f"\n{'clip':<12} {'method':<24} {'time':>10} {'vs default':>11} {'memory':>10} {'vs default':>11}")
    ratios: dict[str, float] = {"speedup_vs_whole_clip": 0.0, "memory_vs_whole_clip": 0.0}
    slowdowns, speedups, over, limits = [], [], [], []
    for title, (width, height, seconds) in clips.items():
        path = str(folder / f"{title.replace(' ', '_')}.mp4")
        child("write_clip", path=path, width=width, height=height, seconds=seconds)
        rounds = child("time_readers", path=path, skip=list(missing), repeats=repeats)
        times = {method: statistics.median(spent) for method, spent in rounds.items()}
        memory = {method: child("one_read", path=path, method=method)["memory"] for method in rounds}
        rows = {method: (times[method], memory[method]) for method in rounds}
        as_float = fits(5 * width * height * 3 * seconds * FPS)
        if as_float or fits(width * height * 3 * seconds * FPS):
            whole = child("whole_clip", path=path, as_float=as_float)
            rows[f"whole clip, {'float32' if as_float else 'uint8 only'}"] = (whole["time"], whole["memory"])
            if title.startswith(HD):
                ratios["speedup_vs_whole_clip"] = round(whole["time"] / times[default], 2)
                ratios["memory_vs_whole_clip"] = round(memory[default] / whole["memory"], 4)
        for how, (spent, used) in rows.items():
            print(
                f"{title:<12} {how:<24} {spent * 1000:>7.0f} ms {spent / times[default]:>10.2f}x "
                f"{used / 2**20:>6.0f} MiB {used / memory[default]:>10.2f}x"
            )
        if len(rows) == len(times):
            print(f"{title:<12} whole clip: not measured, needs more than half of the free memory")
        others = [reader for reader in rounds if reader not in (SEEK, default)]
        slowdowns.append(max([1.0, *(1 / paired(rounds, reader, default) for reader in others)]))
        exact = child("in_order", path=path)
        limit = exact["time"] * exact["needed"] / exact["frames"] / min(threads, os.cpu_count() or 1)
        over.append(times[default] / limit)
        speedups.extend([paired(rounds, SEEK, default)] if SEEK in rounds else [])
        limits.append(
            f"{title:<12} {exact['needed']:>7,} of {exact['frames']:>7,} {limit * 1000:>7.0f} ms {over[-1]:>10.2f}x "
            + (f"{speedups[-1]:>10.2f}x" if SEEK in rounds else f"{'-':>11}")
        )
    print(
        f"\n{'clip':<12} {'must be decoded':>18} {'limit':>10} {'over limit':>11} {'vs decord seek':>14}",
        *limits,
        sep="\n",
    )
    print("\ntargets: speedup >= 10, memory <= 0.1, default within 1.2 of the fastest reader, >= 1.8 vs decord seek")
    ratios["default_vs_fastest_reader"] = round(max(slowdowns), 3)
    worst = round(min(speedups), 2) if speedups else None
    print(json.dumps({**ratios, "speedup_vs_decord_seek": worst, "over_limit": round(max(over), 2)}))


def paired(rounds: dict[str, list[float]], method: str, other: str) -> float:
    """Return the median over the rounds of the time of a method / the time of another one."""
    return statistics.median(a / b for a, b in zip(rounds[method], rounds[other], strict=True))


child = partial(run_task, __file__)


def fits(size: int) -> bool:
    """Return whether ``size`` bytes are less than half of the free memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
        return size < 0.5 * int(line.split()[1]) * 1024
    return size < 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- tasks: each runs in a child process ------------------------------------------------------------------------


def readers() -> tuple[str, int, dict[str, str]]:
    """Return the name and threads of the default reader, and the reason for each reader that is not available."""
    from tinyvid.errors import ConfigError

    missing = {}
    for name in READERS:
        try:
            build(name)
        except ConfigError as error:
            missing[name] = str(error)
    default = build("auto")
    return default.name, default.threads, missing


def write_clip(path: str, width: int, height: int, seconds: int) -> None:
    """Write H.264 with x264's default key frame distance: a camera pan over a texture, with sensor noise."""
    import av
    import numpy as np

    chance = np.random.default_rng(0)
    texture = chance.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1).astype(np.int16)
    noise = chance.integers(-6, 7, (8, height, width, 3), dtype=np.int16)
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * FPS):
            x, y = int(256 + 200 * np.sin(i / 97)), int(200 + 180 * np.cos(i / 71))
            picture = np.clip(texture[y : y + height, x : x + width] + noise[i % 8], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def time_readers(path: str, skip: list[str], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each method in each round; methods alternate, so a busy machine affects all of them."""
    methods = methods_of([name for name in READERS if name not in skip])
    import_decoders()
    for method in methods.values():
        method(path)  # the first call of a library is slower
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            Path(path).touch()  # a new file for tinyvid's index cache
            spent[name].append(seconds_of(method, path))
    return spent


def one_read(path: str, method: str) -> dict[str, float]:
    """Return time (s) and memory (bytes) of one read in a new process."""
    read = methods_of(["decord" if method == SEEK else method])[method]
    import_decoders()
    before = resident()
    spent = seconds_of(read, path)
    return {"time": spent, "memory": peak() - before}


def in_order(path: str) -> dict[str, float]:
    """Compare the frames of the default reader with those of decoding in order, on one thread.

    Returns:
        The time (s) of decoding in order, the number of ``frames``, and the number that is ``needed``.
    """
    import av
    import numpy as np

    reader = build("auto")
    chosen = indices(reader.probe(Path(path)).num_frames)
    frames = reader.read(Path(path), chosen).frames
    numbers = iter(chosen)
    wanted, count, found = next(numbers), 0, 0
    began = time.perf_counter()
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            if count == wanted:
                np.testing.assert_array_equal(frames[found], frame.to_ndarray(format="rgb24"), f"frame {wanted}")
                wanted, found = next(numbers, -1), found + 1
            count += 1
    assert found == NUM_FRAMES, found
    return {"time": time.perf_counter() - began, "frames": count, "needed": needed(path, chosen)}


def needed(path: str, numbers: list[int]) -> int:
    """Return the number of frames of a H.264 clip in MP4 that must be decoded for the requested ones."""
    import av

    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        order = sorted(packet.pts for packet in packets)
    wanted = {order[number] for number in numbers}
    total = since_key = 0
    for packet in packets:
        since_key = 0 if packet.is_keyframe else since_key
        since_key += packet.pts in wanted or is_reference(bytes(packet))
        if packet.pts in wanted:
            total, since_key = total + since_key, 0
    return total


def is_reference(data: bytes) -> bool:
    """Return whether a picture may be referred to: ``nal_ref_idc`` of its slices, each after 4 bytes of length."""
    position = 0
    while position < len(data):
        if data[position + 4] & 31 in (1, 5):
            return data[position + 4] >> 5 != 0
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return False


def whole_clip(path: str, as_float: bool) -> dict[str, float]:
    """Return time (s) and memory (bytes) of decoding every frame, as TinyLLaVA-Video does before it picks 16."""
    import_decoders()
    import decord
    import numpy as np
    import torch  # noqa: F401

    decord.bridge.set_bridge("torch")  # returns frames without a copy
    before = resident()
    began = time.perf_counter()
    video = decord.VideoReader(path)
    frames = video.get_batch(range(len(video)))
    if as_float:
        frames = frames.float()
    frames = frames[np.linspace(0, len(frames) - 1, NUM_FRAMES, dtype=int).tolist()]
    return {"time": time.perf_counter() - began, "memory": peak() - before}


def build(name: str) -> Any:
    """Return a reader with its default options."""
    from tinyvid.registry import VIDEO_READERS

    return VIDEO_READERS.build({"name": name})


def methods_of(names: list[str]) -> dict[str, Callable[[str], Any]]:
    """Return functions from a path to 16 frames: those of readers, and decord alone if its reader is among them."""

    def read(reader: Any, path: str) -> Any:
        return reader.read(Path(path), indices(reader.probe(Path(path)).num_frames)).frames

    def seek(path: str) -> Any:
        import decord

        video = decord.VideoReader(path)
        return video.get_batch(indices(len(video))).asnumpy()

    methods: dict[str, Callable[[str], Any]] = {name: partial(read, build(name)) for name in names}
    return methods | ({SEEK: seek} if "decord" in names else {})


def indices(count: int) -> list[int]:
    """Return the numbers of the requested frames of a clip."""
    from tinyvid.types import VideoMeta
    from tinyvid.video.samplers import Uniform

    return Uniform(num_frames=NUM_FRAMES)(VideoMeta(count, FPS, count / FPS, 0, 0))


def seconds_of(method: Callable[[str], Any], path: str) -> float:
    """Return the seconds that a method takes."""
    began = time.perf_counter()
    frames = method(path)
    spent = time.perf_counter() - began
    assert len(frames) == NUM_FRAMES
    return spent


def import_decoders() -> None:
    """Import all decoders, so that no measurement includes an import."""
    import contextlib

    import av  # noqa: F401

    for library in ("decord", "torchcodec.decoders"):
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            __import__(library)


def resident() -> int:
    """Return the resident size of this process, in bytes."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else peak()


def peak() -> int:
    """Return the highest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


TASKS: dict[str, Callable[..., Any]] = {
    "readers": readers,
    "write_clip": write_clip,
    "time_readers": time_readers,
    "in_order": in_order,
    "one_read": one_read,
    "whole_clip": whole_clip,
}

if __name__ == "__main__":
    main()
