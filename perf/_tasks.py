"""Run parts of a script in new processes, so that neither their imports nor their peak memory affect each other."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def arguments_of(parser: argparse.ArgumentParser, tasks: Mapping[str, Callable[..., Any]]) -> argparse.Namespace:
    """Return the parsed arguments. In a process that ``run_task`` started, run its task and exit instead."""
    parser.add_argument("--task", help=argparse.SUPPRESS)  # as JSON
    arguments = parser.parse_args()
    if arguments.task:
        task = json.loads(arguments.task)
        print(json.dumps(tasks[task.pop("name")](**task)))
        sys.exit()
    return arguments


def run_task(script: str, name: str, *, env: Mapping[str, str] | None = None, **task: Any) -> Any:
    """Run a task of a script in a new process, and return its output, the last line.

    A script that measures memory must import nothing heavy itself: a child's peak is at least the size of its parent.
    """
    command = [sys.executable, script, "--task", json.dumps({"name": name, **task})]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(env or {})}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])
