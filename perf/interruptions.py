"""Kill programs at random moments, and check that nothing complete is lost and nothing half-written looks whole.

The programs are training, saving a checkpoint, the cache, a benchmark and writing a set of clips. Each runs in a child
process, with a small model on the CPU. Every other kill comes at a random time, the others shortly after the program
has begun to write a file. Then the program runs again until it finishes, and its result is compared with that of an
uninterrupted run: weights, replies and files must be equal to the bit.

Each program also runs with a full disk (no file may grow beyond a limit), in a folder that it may not write to, and
while another process uses its folder. These must end with one of tinyvid's own errors, and the program must finish
after the cause is gone. A cache must never stop a program, so that program must end without an error.

The last line is one JSON object: for each program the number of kills, and the sums over all programs: `lost` (kills
after which something complete was gone; target: 0), `half` (incomplete things that look complete; target: 0),
`different` (results that differ from those of an uninterrupted run; target: 0), `failed` (runs that could not
continue; target: 0) and `untyped` (errors of other kinds than tinyvid's, or none; target: 0). The exit status is 1 if
a target is missed.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _programs import PROGRAMS, prepared

FORK = multiprocessing.get_context("fork")
CONDITIONS = ("full disk", "read-only folder", "two processes")
NOBODY = 65534
DISK = 1_000  # bytes of the largest file on the full disk


def main() -> None:
    """Run all programs, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="kill each program once, to check that the script runs")
    parser.add_argument("--times", type=int, default=20, help="kills of each program (default: 20)")
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS),
                        help="only these programs (default: all)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments (default: 0)")
    arguments = parser.parse_args()
    totals: Counter[str] = Counter(dict.fromkeys(("lost", "half", "different", "failed", "untyped"), 0))
    report: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="interruptions-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the process without permissions must reach the folders below
        for program in prepared(arguments.programs, folder):
            trial = Trial(program, folder, random.Random(arguments.seed))
            kills = trial.kill(1 if arguments.quick else arguments.times)
            for condition in CONDITIONS:
                trial.hinder(condition)
            report[program.name] = kills
            totals += trial.counts
            print(f"{program.name}: {kills} kills, {dict(trial.counts) or 'no faults'}", flush=True)
    targets = {key: totals[key] for key in ("lost", "half", "different", "failed", "untyped")}
    print(json.dumps(report | targets))
    sys.exit(int(any(targets.values())))


class Trial:
    """Run one program until it was killed often enough, and count the faults.

    Args:
        program: The program.
        folder: Folder for its outputs.
        chance: Chooses the moments.
    """

    def __init__(self, program: Any, folder: Path, chance: random.Random) -> None:
        self.program = program
        self.folder = folder
        self.chance = chance
        self.counts: Counter[str] = Counter()
        self.reference = folder / f"{program.name}_reference"
        began = time.monotonic()
        status, said = attempt(program, self.reference)
        if status:
            raise SystemExit(f"{program.name} does not run:\n{said}")
        self.seconds = time.monotonic() - began

    def kill(self, times: int) -> int:
        """Kill the program ``times`` times, finish each run, and return the number of kills."""
        kills = number = 0
        while kills < times:
            place = self.folder / f"{self.program.name}_{number}"
            number += 1
            progress = 0
            while not self.program.finished(place):
                moment = self._moment(place, early=kills % 2 == 1) if kills < times else None
                status, said = attempt(self.program, place, moment)
                kills += status == -signal.SIGKILL
                if status not in (0, -signal.SIGKILL):
                    self._fault("failed", place, said)
                    break
                now = self.program.progress(place)
                if now < progress:
                    self._fault("lost", place, f"{progress} -> {now}")
                progress = now
                for half in self.program.half(place, self.reference):
                    self._fault("half", place, half)
            else:
                self._compare(place)
        return kills

    def _moment(self, place: Path, *, early: bool) -> Callable[[], bool]:
        """Return a function that tells whether to kill: after a random time, or after a new file has appeared."""
        end = time.monotonic() + self.chance.uniform(0, self.seconds)
        if not early:
            return lambda: time.monotonic() > end
        before, wait = names(place.parent, place.name), self.chance.uniform(0, 0.1)

        def writes() -> bool:
            if names(place.parent, place.name) == before:
                return False
            time.sleep(wait)
            return True

        return writes

    def _compare(self, place: Path) -> None:
        if not self.program.same(place, self.reference):
            self._fault("different", place, "the result differs from that of an uninterrupted run")

    def _fault(self, kind: str, place: Path, what: str) -> None:
        self.counts[kind] += 1
        print(f"{kind}: {place.name}: {what}", flush=True)

    def hinder(self, condition: str) -> None:
        """Run the program under a condition that must end it with an error, then without it."""
        place = self.folder / f"{condition} {self.program.name}".replace(" ", "_") / "out"
        place.parent.mkdir()
        if self.program.survives:
            place.mkdir()
        if condition == "two processes":
            self._beside(place)
        else:
            limited = place if self.program.survives else place.parent
            status, said = attempt(self.program, place, prepare=lambda: BEGIN[condition](limited))
            limited.chmod(0o755)
            self._expect(condition, status, said)
        for half in self.program.half(place, self.reference):
            self._fault("half", place, half)
        status, said = attempt(self.program, place)
        if status:
            self._fault("failed", place, said)
        else:
            self._compare(place)

    def _beside(self, place: Path) -> None:
        """Start the program a second time while the first process runs."""
        if not self.program.is_exclusive:
            return
        tried: list[tuple[int, str]] = []

        def owned() -> bool:
            if not any(file.stat().st_size for file in place.parent.glob(f"{place.name}*/.lock")):
                return False
            tried.append(attempt(self.program, place))
            return True

        attempt(self.program, place, owned)
        self._expect("two processes", *(tried or [(0, "the folder was never locked")])[0])

    def _expect(self, condition: str, status: int, said: str) -> None:
        expected = 0 if self.program.survives else 2
        if status != expected:
            self._fault("untyped", Path(condition), f"status {status}, expected {expected}: {said}")


def attempt(
    program: Any,
    place: Path,
    moment: Callable[[], bool] | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Run a program in a child process, and kill it at the moment; return its status and what it said.

    The status is 0, or 2 after an error of tinyvid, 1 after another one, or the negative number of a signal.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = FORK.Process(target=_run, args=(program, place, prepare, output.fileno()))
        child.start()
        while moment is not None and child.is_alive():
            if moment():
                child.kill()
                break
            time.sleep(0.003)
        child.join()
        output.seek(0)
        return child.exitcode or 0, output.read()[-2000:]


def _run(program: Any, place: Path, prepare: Callable[[], None], output: int) -> None:
    from tinyvid.errors import TinyvidError

    for stream in (1, 2):
        os.dup2(output, stream)
    try:
        prepare()
        program.run(place)
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        traceback.print_exc()
        os._exit(2 if isinstance(error, TinyvidError) else 1)
    os._exit(0)


def fill_disk(folder: Path) -> None:
    """Let no file of this process grow beyond a limit."""
    del folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, resource.RLIM_INFINITY))


def take_permissions(folder: Path) -> None:
    """Forbid this process to write to a folder, also if it is root."""
    folder.chmod(0o555)
    if os.getuid() == 0:
        os.setuid(NOBODY)


BEGIN = {"full disk": fill_disk, "read-only folder": take_permissions}


def names(folder: Path, start: str) -> set[str]:
    """Return the paths below those entries of a folder whose name begins with ``start``."""
    found: set[str] = set()
    for top in folder.glob(f"{start}*"):
        for _, folders, files in os.walk(top):
            found.update(folders, files)
    return found


if __name__ == "__main__":
    main()
