"""Shared fixtures: tiny models and the default model. Every test runs offline and on one thread.

This file imports nothing heavy, because the process that distributes tests to the workers also reads it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tinyvid import Assistant
    from tinyvid.processing.processor import Processor

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Read when torch is imported. A process whose threads have used several threads per operation cannot fork and compute.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread, so that workers do not compete for cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def keeps_one_thread() -> Iterator[None]:
    """Fail a test that leaves more threads per operation, because programs that later tests fork would hang."""
    yield
    if torch := sys.modules.get("torch"):
        assert torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny LLMs and towers, filled by ``tests.factories``. Tests must not change it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def assistant(models: Path) -> "Assistant":
    """A tiny model with the connector ``group``. The test may change it."""
    from tests.factories import tiny_assistant

    return tiny_assistant(models)


@pytest.fixture
def processor(assistant: "Assistant") -> "Processor":
    """The Processor of the tiny model."""
    return assistant.processor


@pytest.fixture(scope="session")
def shipped() -> "Assistant":
    """The default model. Tests must not change it."""
    from tinyvid import Assistant

    return Assistant.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ten questions about three clips. Tests must not change it."""
    from tests.questions import write_questions

    return write_questions(tmp_path_factory.mktemp("questions"))
