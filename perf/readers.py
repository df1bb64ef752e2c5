"""Read several hundred generated media files with each reader, and count what is exact, refused, wrong, or worse.

The script writes tiny files with PyAV: containers, codecs, groups of pictures, rates, orientations, starts, streams;
and damaged files: truncated, with flipped bits or false headers, decompression bombs. Every frame shows its number, so
a wrong or rotated frame is detected. The frames of a damaged file are compared with those of the intact file. Each file
is opened as tinyvid opens it, and 8 evenly spaced frames are read. Many files share one child process, which has a time
limit per file and a limit on memory; a crash or a hang counts for the file that was being read.

The outcomes: ``exact``; ``warning`` (a log message that names the file); ``error`` (a TinyvidError); ``fewer`` (a
damaged file: frames are missing without a warning, the others are right); ``wrong`` (wrong or damaged frames or times
without a warning); ``untyped`` (another exception), ``crash``, ``hang``.

The last line is one JSON object: ``files``, and for all readers ``crashes``, ``hangs`` and ``untyped``; for the default
reader ``silently_wrong`` and ``silently_fewer``, their shares of the damaged files and their names, the names of the
intact files among them (``wrong_intact``), and ``refused_intact``, the intact files that it refuses.
"""

import argparse
import json
import logging
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

READERS = ("pyav", "decord", "torchcodec")
OUTCOMES = ("exact", "warning", "error", "fewer", "wrong", "untyped", "crash", "hang")
LIMIT_S = 20.0  # per file
LIMIT_BYTES = 3 << 30  # of address space beyond the imports
SAMPLED = 8
OFF = 12.0  # mean difference of an 8 x 8 block, of 255, that counts as damage; below it is coding noise
QUICK = 40  # every n-th file


def main() -> None:
    """Write the files, read them in child processes, print the table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"use every {QUICK}th file, to check that the script runs")
    parser.add_argument("--keep", metavar="DIR", help="write the files to this folder and keep them")
    parser.add_argument("--reader", action="append", choices=READERS, help="reader to test (default: all installed)")
    parser.add_argument("--only", default="", help="use the files whose kind or name contains this text")
    parser.add_argument("--verbose", action="store_true", help="print the outcome of every file that is not exact")
    parser.add_argument("--tasks", help=argparse.SUPPRESS)  # file with the tasks of a child process
    arguments = parser.parse_args()
    if arguments.tasks:
        read_all(json.loads(Path(arguments.tasks).read_text()))
        return
    if arguments.keep:
        Path(arguments.keep).mkdir(parents=True, exist_ok=True)
        report(Path(arguments.keep), arguments)
    else:
        with tempfile.TemporaryDirectory(prefix="readers-") as folder:
            report(Path(folder), arguments)


def report(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the corpus, read it with every reader, print the tables and the JSON line."""
    default, available = readers()
    began = time.perf_counter()
    tasks = write_corpus(folder, arguments)
    print(f"{len(tasks)} files, written in {time.perf_counter() - began:.0f} s; default reader: {default}")
    totals: Counter[str] = Counter()
    summary: dict[str, Any] = {"files": len(tasks)}
    for reader in arguments.reader or available:
        began = time.perf_counter()
        results = list(progress(run(tasks, reader, folder), len(tasks), reader))
        print(f"\n{reader} ({time.perf_counter() - began:.0f} s)")
        print_table(tasks, results)
        totals.update(result["outcome"] for result in results)
        for task, result in zip(tasks, results, strict=True):
            if result["outcome"] != "exact" and (arguments.verbose or blamed(task, result)):
                print(f"  {result['outcome']:<8} {task['name']:<32} {task['kind']}: {result['why']}")
        if reader == default:
            summary |= silent(tasks, results)
    counts = {"crashes": totals["crash"], "hangs": totals["hang"], "untyped": totals["untyped"]}
    print(json.dumps({**summary, **counts}))


def silent(tasks: list[dict[str, Any]], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers and shares of files with silent damage, and the intact files that are not read."""
    names: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for task, result in zip(tasks, results, strict=True):
        names[result["outcome"], task["damaged"]].append(task["name"])
    damaged = max(1, sum(task["damaged"] for task in tasks))
    counts: dict[str, Any] = {}
    for outcome in ("wrong", "fewer"):
        counts[f"silently_{outcome}"] = len(names[outcome, True]) + len(names[outcome, False])
        counts[f"silently_{outcome}_share"] = round(len(names[outcome, True]) / damaged, 4)
        counts[f"silently_{outcome}_files"] = names[outcome, True]
    refused = [t["name"] for t, r in zip(tasks, results, strict=True) if r["outcome"] == "error" and blamed(t, r)]
    return {**counts, "wrong_intact": names["wrong", False], "refused_intact": refused}


def blamed(task: dict[str, Any], result: dict[str, Any]) -> bool:
    """Return whether an outcome is not right: anything but an exact file, a refused bad one, or a warning."""
    refused = result["outcome"] == "error" and not task["damaged"] and bool(task["numbers"])
    return refused or result["outcome"] in ("fewer", "wrong", "untyped", "crash", "hang")


def readers() -> tuple[str, list[str]]:
    """Return the default reader, and all readers that are installed."""
    import av  # noqa: F401  # before decord, whose libvpx would take the place of PyAV's

    from tinyvid.errors import ConfigError
    from tinyvid.registry import VIDEO_READERS

    available = []
    for name in READERS:
        try:
            VIDEO_READERS.build({"name": name})
            available.append(name)
        except ConfigError as error:
            print(f"{name} is not available: {error}")
    return VIDEO_READERS.build({"name": "auto"}).name, available


def write_corpus(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Write all files and the references, and return one task per file."""
    import av
    import numpy as np
    from _corpus import intact
    from _damage import bases, damaged
    from _media import reference

    cases = [*intact(), *bases().values(), *damaged(folder)]
    if arguments.only:
        cases = [case for case in cases if arguments.only in case.name or arguments.only in case.kind]
    cases = cases[:: QUICK if arguments.quick else 1]
    names = Counter(case.name for case in cases)
    assert max(names.values(), default=0) <= 1, [name for name, count in names.items() if count > 1]
    for name in {case.source for case in cases if case.source}:
        base = bases()[name]
        base.make(folder / base.name)
        np.save(folder / f"reference_{name}.npy", reference(folder / base.name))
    tasks = []
    for case in progress(iter(cases), len(cases), "writing"):
        path = folder / case.name
        try:
            if not os.path.lexists(path):
                case.make(path)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            print(f"{case.name} cannot be written by this PyAV: {error}")
            continue
        tasks.append(
            {
                "name": case.name,
                "kind": case.kind,
                "numbers": None if case.numbers is None else list(case.numbers),
                "times": None if case.times is None else list(case.times),
                "damaged": case.damaged,
                "reference": f"reference_{case.source}.npy" if case.source else None,
            }
        )
    return tasks


def progress(steps: Iterator[Any], count: int, what: str) -> Iterator[Any]:
    """Show a progress bar on a terminal."""
    from tqdm import tqdm

    return iter(tqdm(steps, desc=what, total=count, disable=None, leave=False))


def run(tasks: list[dict[str, Any]], reader: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each task. A child process reads the files until one of them ends it."""
    done = 0
    while done < len(tasks):
        path = folder / f"tasks_{reader}.json"
        path.write_text(json.dumps({"folder": str(folder), "reader": reader, "tasks": tasks[done:]}))
        command = [sys.executable, __file__, "--tasks", str(path)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as child:
            for line in lines_of(child):
                yield json.loads(line)
                done += 1
            if done < len(tasks):
                hangs = child.poll() is None
                child.kill()
                status = child.wait()
                yield {"outcome": "hang" if hangs else "crash", "why": "" if hangs else f"status {status}"}
                done += 1


def lines_of(child: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Yield the lines of a child until it ends or is silent for too long."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        pending, limit = b"", 60.0  # imports
        while selector.select(limit):
            data = os.read(child.stdout.fileno(), 1 << 16)
            if not data:
                child.wait()
                return
            *lines, pending = (pending + data).split(b"\n")
            yield from lines
            limit = LIMIT_S if lines or limit == LIMIT_S else limit


def print_table(tasks: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    """Print the outcomes by kind of file."""
    print(f"{'kind':<26} {'files':>6} " + " ".join(f"{outcome:>8}" for outcome in OUTCOMES))
    kinds = list(dict.fromkeys(task["kind"] for task in tasks))
    for kind in [*kinds, "all"]:
        found = Counter(r["outcome"] for t, r in zip(tasks, results, strict=True) if kind in (t["kind"], "all"))
        print(f"{kind:<26} {found.total():>6} " + " ".join(f"{found[outcome] or '':>8}" for outcome in OUTCOMES))


# --- the child process --------------------------------------------------------------------------------------------


class Messages(logging.Handler):
    """Collects the warnings of tinyvid."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


def read_all(job: dict[str, Any]) -> None:
    """Read the files of a job and print one line of JSON for each."""
    import av  # noqa: F401  # like torch, loaded before the limit on memory

    import tinyvid.video.open_video  # noqa: F401
    from tinyvid.registry import VIDEO_READERS

    messages = Messages()
    logging.getLogger("tinyvid").addHandler(messages)
    reader = VIDEO_READERS.build({"name": job["reader"]})
    limit_memory()
    for task in job["tasks"]:
        messages.texts.clear()
        outcome, why = read_one(Path(job["folder"]), task, reader)
        told = [text for text in messages.texts if task["name"] in text]
        if told and (outcome == "exact" or (task["damaged"] and outcome in ("wrong", "fewer"))):
            outcome, why = "warning", told[0]
        print(json.dumps({"outcome": outcome, "why": why}), flush=True)


def limit_memory() -> None:
    """Limit the address space, so that a bomb ends the child instead of the machine."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        size = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def read_one(folder: Path, task: dict[str, Any], reader: Any) -> tuple[str, str]:
    """Open a file, sample and read frames, and return the outcome and its reason."""
    from tinyvid.errors import TinyvidError
    from tinyvid.types import Video
    from tinyvid.video.open_video import open_video
    from tinyvid.video.samplers import Uniform

    try:
        clip = open_video(Video(folder / task["name"]), reader)
        indices = Uniform(num_frames=SAMPLED)(clip.meta)
        times = clip.times(indices)
        frames = clip.read(indices).frames
    except TinyvidError as error:
        return "error", str(error).replace(f"{folder}/", "")
    except Exception as error:  # what the script looks for
        return "untyped", f"{type(error).__name__}: {error}".replace(f"{folder}/", "")
    if task["numbers"] is None:
        return "exact", ""
    if not task["numbers"]:
        return "wrong", f"should be refused, but gave {clip.meta.num_frames} frames"
    judge = judge_damaged if task["damaged"] else judge_intact
    return judge(Read(folder, task, clip.meta.num_frames, indices, times, frames))


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader returned for a task: the number of frames of the file, and those that were sampled."""

    folder: Path
    task: dict[str, Any]
    count: int
    indices: list[int]
    times: list[float]
    frames: Any


def judge_intact(read: Read) -> tuple[str, str]:
    """Return the outcome of an intact file: the number of frames, their order, orientation and times."""
    from _media import shown_number

    expected, shown = read.task["numbers"], [shown_number(frame) for frame in read.frames]
    if read.count != len(expected):
        return "wrong", f"{read.count} frames instead of {len(expected)}; shows {shown}"
    if shown != [expected[i] for i in read.indices]:
        return "wrong", f"shows {shown} instead of {[expected[i] for i in read.indices]}"
    if times := read.task["times"]:
        step = min((b - a for a, b in pairwise(times)), default=1.0)
        late = max(abs(time - times[i]) for i, time in zip(read.indices, read.times, strict=True))
        if late > step / 2:
            return "wrong", f"times are {late:.3f} s off"
    return "exact", ""


def judge_damaged(read: Read) -> tuple[str, str]:
    """Return the outcome of a damaged file: its frames and their distances in time, compared with the intact one."""
    import numpy as np
    from _media import FPS, shown_number

    reference = np.load(read.folder / read.task["reference"])
    shown = [shown_number(frame) for frame in read.frames]
    for index, number, frame in zip(read.indices, shown, read.frames, strict=True):
        if number is None or number >= len(reference) or frame.shape != reference[number].shape:
            return "wrong", f"frame {index} shows {number}"
        height, width = (side // 8 * 8 for side in frame.shape[:2])
        off = np.abs(frame[:height, :width].astype(float) - reference[number][:height, :width])
        worst = off.reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3, 4)).max()
        if worst > OFF:
            return "wrong", f"frame {index} is damaged: up to {worst:.0f} of 255 off"
    late = np.abs((np.array(shown, float) - shown[0]) / FPS - (np.array(read.times) - read.times[0])).max()
    if late > 0.6 / FPS and read.task["kind"] != "lying header":  # a header that lies about times cannot be disproved
        return "wrong", f"times are {late:.3f} s off; shows {shown}"
    if read.count < len(reference):
        return "fewer", f"{read.count} frames instead of {len(reference)}"
    return "exact", ""


if __name__ == "__main__":
    main()
