"""Load damaged checkpoints in child processes, and count how it ends: ``python -m tests.security.fuzz 500``.

Every case is a layout and one to three random changes of its files. It may load and answer, or raise a
``TinyvidError``. Everything else is a fault: another error, a crash, a hang, a gigabyte of memory, a file outside the
checkpoint, a connection, a program, or planted code that runs.
"""

import argparse
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from tests.factories import tiny_assistant
from tests.goldens import FAMILIES, TINYLLAVA_VIDEO
from tests.security.layouts import CHECKPOINTS, PARTS, built, load, source, watched
from tests.security.mutations import mutate
from tinyvid import Assistant
from tinyvid.build import build
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import TinyvidError

SECONDS, WAIT, MEMORY = 20, 150, 1 << 30  # of the processor, until a sleeping case is a hang, and bytes
FRAMES = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3), dtype=np.uint8)


@cache
def sources():
    """Return the folder of each layout; further ones store a tower of timm or open_clip, or another LLM."""
    root = Path(built().name)
    found = {name: source(name) for name in (*CHECKPOINTS, *PARTS)}
    found["tinyllava_video_phi"] = TINYLLAVA_VIDEO / "group_phi"
    found |= {name: FAMILIES / name / "hf" for name in ("llava_siglip", "llava_clip", "llava_onevision", "smolvlm")}
    for tower in ("timm", "open_clip"):
        options = {"name": tower, "path": str(source(tower)), "revision": None, "layer": -2, "resize": "auto"}
        groups = {**tiny_assistant(root / "parts").config, "vision_tower": options}
        loaded = Loaded(*build(groups, device="cpu"), frozenset({"llm", "vision_tower"}))
        Assistant(loaded).save_pretrained(root / f"native_{tower}")
        found[f"native_{tower}"] = root / f"native_{tower}"
    return found


def use(layout, folder):
    """Load a layout; a whole checkpoint also answers a question."""
    if layout in PARTS:
        load(layout, folder)
    else:
        Assistant.from_pretrained(folder, device="cpu", dtype="float32").ask(FRAMES, "What?", max_new_tokens=2)


@cache
def prepare():
    """Import once, in the parent, all that a layout needs."""
    warnings.simplefilter("ignore")
    for layout, folder in sources().items():
        use(layout, folder)


def outcome(layout, seeds):
    """Return the changes of a case, how it ends, and what went wrong; both are ``None`` if nothing did."""
    prepare()
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder = Path(shutil.copytree(sources()[layout], place / "folder"))
    changes = [mutate(folder, [*sources().values()], seed, place / "ran") for seed in seeds]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _work(layout, folder, writer)
    os.close(writer)
    if not select.select([reader], [], [], WAIT)[0]:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as file:
        answer = file.read()
    _, status, used = os.wait4(child, 0)
    end, fault = json.loads(answer) if answer else ("killed", f"the process ended with status {status}")
    grown = (used.ru_maxrss << 10) - _resident()
    if grown > MEMORY:
        fault = f"{grown:,} bytes of memory"
    if (place / "ran").exists():
        fault = "planted code ran"
    shutil.rmtree(place, ignore_errors=True)
    return changes, end, fault


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _work(layout, folder, writer):
    """Use a layout within limits, and write how it ended; never returns."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    logging.disable(logging.CRITICAL)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 6 * MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    end, fault = "loaded", None
    try:
        with watched() as events:
            try:
                use(layout, folder)
            except TinyvidError as error:
                end = type(error).__name__
        fault = next((f"{event}: {value}" for event, value in events if not _allowed(event, value, folder)), None)
    except BaseException as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tinyvid/" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        end, fault = "other error", f"{type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        os.write(writer, json.dumps([end, fault]).encode())
        os._exit(0)


def _allowed(event, value, folder):
    """Return whether a case may do this: open its own files, temporary copies of them, and installed files."""
    own = (str(folder), tempfile.gettempdir() + "/tinyvid-", str(Path(__file__).parents[2]))
    installed = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/usr", "/etc/mime.types", os.devnull)
    return event == "import" or (event == "open" and (value.isdigit() or value.startswith((*own, *installed))))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args()
    ends, faults = Counter(), 0
    for number in range(given.first, given.first + given.cases):
        rng = random.Random(number)
        layout = rng.choice(sorted(sources()))
        changes, end, fault = outcome(layout, [rng.randrange(2**32) for _ in range(rng.choice([1, 1, 1, 2, 3]))])
        ends[end] += 1
        if fault:
            faults += 1
            sys.stdout.write(f"{number} {layout} {changes}: {fault}\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps({"cases": given.cases, "faults": faults, **ends}) + "\n")


if __name__ == "__main__":
    main()
