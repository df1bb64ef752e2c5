"""Every test runs offline and on one thread. What many tests share lies here: tiny models, and the shipped one.

Nothing heavy is imported here, because the process that hands tests to the workers reads this file and runs none.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tinyvid import Assistant
    from tinyvid.processing.processor import Processor

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep the workers out of each other's way."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny LLMs and towers. ``tests.factories`` fills it, and nothing changes it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def assistant(models: Path) -> "Assistant":
    """A tiny model with the connector ``group``, which the test may change."""
    from tests.factories import tiny_assistant

    return tiny_assistant(models)


@pytest.fixture
def processor(assistant: "Assistant") -> "Processor":
    """The Processor of the tiny model."""
    return assistant.processor


@pytest.fixture(scope="session")
def shipped() -> "Assistant":
    """The model that comes with tinyvid, which no test changes."""
    from tinyvid import Assistant

    return Assistant.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ten questions about three clips, which no test changes."""
    from tests.questions import write_questions

    return write_questions(tmp_path_factory.mktemp("questions"))
