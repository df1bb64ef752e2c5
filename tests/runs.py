"""Run programs in this process or in a fork, and write rows and media for small training runs."""

import importlib.util
import json
import logging
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import torch
from omegaconf import OmegaConf
from PIL import Image

from tests.clips import write_clip
from tests.factories import tiny_overrides
from tinyvid import compose
from tinyvid.outputs import LOCK, owned

ROOT = Path(__file__).parents[1]
# No dropout, so that runs with different batch sizes are comparable.
PLAIN = ["device=cpu", "dtype=float32", "recipe=smoke", "peft.dropout=0", "peft.rank=4", "recipe.group_by_length=false"]


def load_program(name: str) -> Any:
    """Import a program of ``recipes/`` as a module."""
    spec = importlib.util.spec_from_file_location(f"recipes_{name}", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_script() -> Any:
    """Import ``eval.py`` as a module; ``import eval`` finds the package."""
    spec = importlib.util.spec_from_file_location("eval_script", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["eval_script"] = module
    spec.loader.exec_module(module)
    return module


def python(*arguments: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` (a file, ``-m module`` or ``-c code``) in a fork, and return its output.

    This process has already imported torch and transformers, which takes seconds in a new process. CUDA does not
    survive a fork, so on a machine with a GPU, the program runs in a new process.
    """
    given = [str(argument) for argument in arguments]
    if torch.cuda.is_available():
        command, variables = [sys.executable, *given], os.environ | env
        return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300)
    (done,) = _in_forks(given, cwd, [env])
    return done


def python_in_ranks(*arguments: object, **env: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in two processes that form a process group, as torchrun does, and return the output of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    group = env | {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return _in_forks([str(argument) for argument in arguments], ROOT, ranks)


def _in_forks(given: list[str], cwd: Path, envs: list[dict[str, str]]) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in one fork per environment, at the same time."""
    with ExitStack() as stack:
        files = [[stack.enter_context(TemporaryFile("w+")) for _ in range(2)] for _ in envs]
        fork = multiprocessing.get_context("fork").Process
        children = [fork(target=_run, args=(given, cwd, env, *own)) for env, own in zip(envs, files, strict=True)]
        for child in children:
            child.start()
        for child in children:
            child.join(timeout=300)
            child.kill()
            child.join()
        printed = [[file.seek(0) or file.read() for file in own] for own in files]
    return [
        subprocess.CompletedProcess(given, child.exitcode or 0, *texts)
        for child, texts in zip(children, printed, strict=True)
    ]


def _run(arguments: list[str], cwd: Path, env: dict[str, str], stdout: IO[str], stderr: IO[str]) -> None:
    """Run a program in this process as in a new process."""
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    logging.getLogger().handlers.clear()
    os.chdir(cwd)
    os.environ.update(env)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, str(cwd))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(cwd, arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


@contextmanager
def owner_of(folder: Path) -> Iterator[int]:
    """Let another process own a folder until it is killed at the end of the block; its id is the value."""
    other = multiprocessing.get_context("fork").Process(target=_own, args=(folder,))
    other.start()
    while not (folder / LOCK).exists() or not (folder / LOCK).read_text():
        time.sleep(0.001)
    try:
        yield other.pid or 0
    finally:
        other.kill()
        other.join()


def _own(folder: Path) -> None:
    with owned(folder, key="run_dir"):
        time.sleep(60)


def turns(question: str, reply: str | None = None) -> list[dict[str, str]]:
    asked = [{"from": "human", "value": question}]
    return asked if reply is None else [*asked, {"from": "gpt", "value": reply}]


def write_rows(folder: Path, count: int = 8, name: str = "rows.jsonl") -> Path:
    """Write ``count`` rows (three clips, an image, text only, multiple choice), and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(3):
        if not (folder / f"clip_{i}.mp4").exists():
            write_clip(folder / f"clip_{i}.mp4", num_frames=12 + 8 * i)
    Image.new("RGB", (50, 40), (200, 10, 10)).save(folder / "red.png")
    kinds: list[dict[str, Any]] = [
        {"video": "clip_0.mp4", "conversations": turns("<video>\nWhat is it?", "The first clip.")},
        {"conversations": turns("Hello?", "Hi there, how are you?")},
        {"image": "red.png", "conversations": turns("<image>\nColor?", "Red.")},
        {"video": "clip_1.mp4", "clip": [0.1, 0.6], "conversations": turns("What is it?", "The second, cut short.")},
        {"video": "clip_2.mp4", "conversations": turns("Which?"), "options": ["cat", "dog", "cow"], "answer_index": 1},
    ]
    rows = [{"id": f"row {i}", **kinds[i % len(kinds)]} for i in range(count)]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(models: Path, rows: Path, *overrides: str, **kwargs: Any) -> dict[str, Any]:
    """Return the settings of a small run, as plain data."""
    parts = tiny_overrides(models, **kwargs)
    composed = compose([*parts, *PLAIN, f"data.path={rows}", "run_dir=unused", *overrides], config="train")
    found: Any = OmegaConf.to_container(composed, resolve=True)
    return found if found["ckpt"] is None else found | {"llm": None}  # as the command line leaves it
