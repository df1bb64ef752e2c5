"""Signals: the first one is remembered or raised, the second one ends the process, and workers survive them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.runs import ROOT
from tinyvid.interrupts import Interrupted, Interrupts, interruptible, shield_worker, unbroken_output

FORK = multiprocessing.get_context("fork")
BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@BOTH
def test_the_first_signal_is_remembered(number, status, capfd):
    handlers = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts(notice="stopping") as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.received == number
        assert "stopping" in capfd.readouterr().err
        with pytest.raises(Interrupted) as raised, interrupts.raised_within(True):
            pytest.fail("raised before the block")
        assert raised.value.code == status
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == handlers


def print_to_closed_pipe():
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.close(writing)
    with unbroken_output(), Interrupts(notice="stopping") as interrupts:
        sys.stdout.write("before")
        sys.stdout.flush()
        os.close(reading)
        os.kill(os.getpid(), signal.SIGINT)
        for stream in (sys.stdout, sys.stderr):
            for _ in range(2):
                stream.write("after")
                stream.flush()
        assert interrupts.received == signal.SIGINT
        assert not sys.stdout.isatty()
    sys.stdout.write("at the end")
    raise SystemExit(7)


def test_a_closed_pipe_does_not_prevent_a_graceful_stop():
    """Ctrl-C also ends the program that reads the output, such as ``tee``."""
    child = FORK.Process(target=print_to_closed_pipe)
    child.start()
    child.join(10)
    assert child.exitcode == 7


def wait_for_two(ready):
    with Interrupts():
        ready.set()
        while True:
            time.sleep(0.01)


@BOTH
def test_the_second_signal_ends_the_process(number, status):
    ready = FORK.Event()
    child = FORK.Process(target=wait_for_two, args=(ready,))
    child.start()
    ready.wait()
    os.kill(child.pid, number)
    child.join(0.1)
    assert child.exitcode is None
    os.kill(child.pid, number)
    child.join(10)
    assert child.exitcode == -number == 128 - status


@BOTH
def test_a_program_says_how_to_continue(number, status, capfd):
    with pytest.raises(Interrupted) as raised, interruptible("Run it again."):
        os.kill(os.getpid(), number)
    assert raised.value.code == status
    assert capfd.readouterr().err.strip() == "Interrupted. Run it again."


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        time.sleep(0.02)
        return index


@pytest.mark.slow
def test_workers_survive_signals_to_the_group():
    """Run in a new process group, to which both signals are sent while workers load."""
    code = (
        "import os, signal; from torch.utils.data import DataLoader\n"
        "from tests.test_interrupts import Slow; from tinyvid.interrupts import Interrupts, shield_worker\n"
        "def send(number):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"  # the sender must not be the parent of the workers
        "        signal.signal(number, signal.SIG_IGN); os.killpg(os.getpgrp(), number); os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    while not interrupts.received: pass\n"
        "assert os.getpgrp() == os.getpid()\n"
        "found = []\n"
        "with Interrupts() as interrupts:\n"
        "    for number in (signal.SIGINT, signal.SIGTERM):\n"
        "        for batch in DataLoader(Slow(), num_workers=2, worker_init_fn=shield_worker):\n"
        "            if len(found) % 6 == 3: send(number)  # both workers run\n"
        "            found += batch.tolist()\n"
        "        assert interrupts.received == number\n"
        "        interrupts.__exit__(); interrupts.__init__(); interrupts.__enter__()\n"
        "assert found == [*range(6)] * 2, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert done.returncode == 0, done.stderr


def test_the_parent_can_end_a_worker():
    child = FORK.Process(target=lambda: (shield_worker(0), time.sleep(60)))
    child.start()
    time.sleep(0.2)
    child.terminate()
    child.join(10)
    assert child.exitcode == 0
