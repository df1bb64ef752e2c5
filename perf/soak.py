"""Open files thousands of times and train for ten epochs with bad files: memory stays flat and the counts are exact.

The script generates its own clips; 5 % of the files are bad (text, empty, truncated or with overwritten bytes).

``opens``: files are opened again and again, and 2 frames of each are read, half of the time with the default reader in
this process, and half of the time in a child process (``video_reader.isolate=true``). Memory (the resident size, with
that of child processes) and open file descriptors are compared between the end of a warm-up, a fifth of the opens, and
the end. ``epochs``: a tiny model is trained with several DataLoader workers, ``data.on_error=skip`` and isolated
readers. The growth of its memory is that of the median over the second half of the epochs compared with the first half.
Each bad row must be skipped and recorded exactly once, and spawned workers must find the same bad rows. ``isolation``:
the time of ``probe`` plus ``read`` of 16 frames of the clips of ``perf/decode.py``, isolated, divided by the time in
this process: the median of the ratios of alternating rounds.

The last line is one JSON object: ``opens``, ``failed`` and ``expected_failures``, ``growth_mib`` and ``descriptors``
(growth of the worse kind of reader), ``epochs``, ``rows``, ``bad_rows``, ``skipped``, ``recorded``,
``skipped_by_spawned_workers``, ``epochs_growth_mib``, and ``isolated_over_plain`` (the worst clip).
"""

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import decode
from _tasks import arguments_of, run_task

ROOT = Path(__file__).parents[1]
EVERY = 20  # one file in 20 is bad
WARM = 1 / 5  # fraction of the opens after which memory is measured for the first time
MIB = 1 << 20


def main() -> None:
    """Run all parts, each in a child process, and print their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use small numbers, to check that the script runs")
    parser.add_argument("--only", choices=["opens", "epochs", "isolation"], help="run one part")
    parser.add_argument("--opens", type=int, default=10_000, help="number of opens (default: 10,000)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the training (default: 10)")
    parser.add_argument("--rows", type=int, default=200, help="rows of the training (default: 200)")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers (default: 2)")
    arguments = arguments_of(parser, TASKS)
    if arguments.quick:
        arguments.opens, arguments.epochs, arguments.rows = 200, 2, 20
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        report(folder, arguments)


def report(folder: str, arguments: argparse.Namespace) -> None:
    """Run the parts and print their numbers."""
    parts = {"opens": opens, "epochs": epochs, "isolation": isolation}
    child("write_files", folder=folder, count=max(2 * EVERY, arguments.rows // 2))
    numbers: dict[str, Any] = {}
    for name, part in parts.items():
        if arguments.only in (None, name):
            numbers |= part(folder, arguments)
    print(json.dumps(numbers))


def opens(folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Open files with both kinds of readers."""
    found = []
    for isolate in (False, True):
        found.append(child("open_often", folder=folder, count=arguments.opens // 2, isolate=isolate))
        print(f"{'in a child process' if isolate else 'in this process'}: {found[-1]}", flush=True)
    numbers = {key: sum(one[key] for one in found) for key in ("opens", "failed", "expected_failures")}
    return numbers | {key: max(one[key] for one in found) for key in ("growth_mib", "descriptors")}


def epochs(folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with bad files."""
    task = {key: getattr(arguments, key) for key in ("epochs", "rows", "workers")}
    found: dict[str, Any] = child("train", folder=folder, **task)
    print(f"training: {found}", flush=True)
    return {key: value for key, value in found.items() if key != "rss_mib"}


def isolation(folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the times of the default reader, isolated and not."""
    ratios = {}
    for title, (width, height, seconds) in (decode.QUICK_CLIPS if arguments.quick else decode.CLIPS).items():
        path = str(Path(folder) / "clip.mp4")
        decode.child("write_clip", path=path, width=width, height=height, seconds=seconds)
        ratios[title] = child("time_both", path=path, repeats=3 if arguments.quick else 9)
        print(f"isolated / in this process, {title}: {ratios[title]:.3f}", flush=True)
    return {"isolated_over_plain": round(max(ratios.values()), 3)}


child = partial(run_task, __file__, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})


# --- tasks: each runs in a child process ------------------------------------------------------------------------


def write_files(folder: str, count: int) -> None:
    """Write ``count`` files, of which one in ``EVERY`` is bad."""
    clip = Path(folder) / "clip.mp4"
    decode.write_clip(str(clip), 160, 96, 1)
    content = clip.read_bytes()
    damaged = [b"", b"no video, only text " * 9, content[: len(content) // 2], content[:40] + os.urandom(3000)]
    for number in range(count):
        bad = damaged[number // EVERY % len(damaged)] if is_bad(number) else content
        (Path(folder) / f"{number}.mp4").write_bytes(bad)


def is_bad(number: int) -> bool:
    """Return whether the file with this number is bad."""
    return number % EVERY == EVERY - 1


def open_often(folder: str, count: int, isolate: bool) -> dict[str, Any]:
    """Open files and read 2 frames of each, and return the counts and the growth of memory and descriptors."""
    from tinyvid import Video, VideoError
    from tinyvid.registry import VIDEO_READERS
    from tinyvid.video.open_video import open_video

    reader = VIDEO_READERS.build({"name": "auto", "isolate": isolate})
    files = sorted(Path(folder).glob("[0-9]*.mp4"), key=lambda path: int(path.stem))
    failed = 0
    before = after = (0.0, 0)
    for number in range(count):
        path = files[number % len(files)]  # more files than the reader remembers
        try:
            clip = open_video(Video(path), reader)
            clip.read([0, clip.meta.num_frames - 1])
        except VideoError:
            failed += 1
        if number + 1 == int(count * WARM):
            before = usage()
    after = usage()
    return {
        "opens": count,
        "failed": failed,
        "expected_failures": sum(is_bad(int(files[number % len(files)].stem)) for number in range(count)),
        "rss_mib": [round(before[0], 1), round(after[0], 1)],
        "growth_mib": round(after[0] - before[0], 1),
        "descriptors": after[1] - before[1],
    }


def train(folder: str, epochs: int, rows: int, workers: int) -> dict[str, Any]:
    """Train a tiny model, and return the counts of skipped rows and the memory after each epoch."""
    from omegaconf import OmegaConf
    from transformers import TrainerCallback

    from tinyvid import compose
    from tinyvid.data.skipped import SKIPPED

    sys.path.insert(0, str(ROOT / "recipes"))
    import train as program  # type: ignore[import-not-found]

    logging.disable(logging.WARNING)
    path = Path(folder) / "rows.jsonl"
    files = len(list(Path(folder).glob("[0-9]*.mp4")))
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A pan."}]
    lines = [json.dumps({"video": f"{number % files}.mp4", "conversations": turns}) for number in range(rows)]
    path.write_text("\n".join(lines))
    overrides = ["llm=qwen2_5_tiny", "vision_tower=siglip_tiny_64", "connector=group_mixer", "template=role_tokens"]
    overrides += ["sampler.num_frames=4", "video_reader.isolate=true", "device=cpu", "dtype=float32", "recipe=smoke"]
    overrides += [f"data.path={path}", "data.on_error=skip", "data.max_skip=0.1", f"recipe.workers={workers}"]
    overrides += [f"recipe.epochs={epochs}", "recipe.max_steps=null", "recipe.batch_size=10", "recipe.accumulate=1"]
    overrides += ["recipe.save_every=1000000"]
    settings: Any = OmegaConf.to_container(compose(overrides, config="train"), resolve=True)
    memory: list[float] = []

    class MemoryLog(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            gc.collect()
            memory.append(usage()[0])

    trainers: list[Any] = []
    make = program.VideoTrainer

    def remember(*given: Any, **options: Any) -> Any:
        trainers.append(make(*given, **options))
        trainers[0].add_callback(MemoryLog())
        return trainers[0]

    program.VideoTrainer = remember
    program.train(settings, Path(folder) / "run")
    record = Path(folder) / "run" / SKIPPED
    half = len(memory) // 2
    expected = sum(is_bad(number % files) for number in range(rows))
    return {
        "epochs": epochs,
        "rows": rows,
        "bad_rows": expected,
        "skipped": len(trainers[0].skipped),
        "recorded": len(record.read_text().splitlines()),
        "skipped_by_spawned_workers": spawned(trainers[0].train_dataset),
        "rss_mib": [round(size, 1) for size in memory],
        "epochs_growth_mib": round(statistics.median(memory[half:]) - statistics.median(memory[:half]), 1),
    }


def spawned(data: Any) -> int:
    """Return the number of rows that a worker skips that is spawned, and so gets the reader pickled."""
    from torch.utils.data import DataLoader

    data.skipped = {}
    loader = DataLoader(data, batch_size=10, num_workers=1, collate_fn=data.collate, multiprocessing_context="spawn")
    return sum(len(batch["skipped"]) for batch in loader)


def time_both(path: str, repeats: int) -> float:
    """Return the time of an isolated read of 16 frames divided by that of a read in this process."""
    from tinyvid.registry import VIDEO_READERS
    from tinyvid.video.samplers import Uniform

    readers = [VIDEO_READERS.build({"name": "auto", "isolate": isolate}) for isolate in (False, True)]
    ratios = []
    for _ in range(repeats + 1):  # the first round includes imports and the start of the child
        spent = []
        for reader in readers:
            Path(path).touch()  # a new file for the cache of the reader
            began = time.perf_counter()
            reader.read(Path(path), Uniform(num_frames=decode.NUM_FRAMES)(reader.probe(Path(path))))
            spent.append(time.perf_counter() - began)
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios[1:])


def usage() -> tuple[float, int]:
    """Return the resident size of this process and its children in MiB, and the number of open descriptors."""
    gc.collect()
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in [os.getpid(), *children(os.getpid())])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB, len(os.listdir("/proc/self/fd"))


def children(parent: int) -> list[int]:
    """Return the child processes of a process, without the ``ps`` that lists them."""
    listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(parent)], stdout=subprocess.PIPE, text=True)
    return [int(pid) for pid, name in map(str.split, listed.stdout.splitlines()) if name != "ps"]


TASKS: dict[str, Callable[..., Any]] = {
    "write_files": write_files,
    "open_often": open_often,
    "train": train,
    "time_both": time_both,
}

if __name__ == "__main__":
    main()
