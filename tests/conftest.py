"""Every test runs offline and on one thread. What many tests share lies here: tiny models, and the shipped one."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch

from tests.factories import tiny_assistant
from tests.questions import write_questions
from tinyvid import Assistant
from tinyvid.processing.processor import Processor

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny LLMs and towers. ``tests.factories`` fills it, and nothing changes it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def assistant(models: Path) -> Assistant:
    """A tiny model with the connector ``group``, which the test may change."""
    return tiny_assistant(models)


@pytest.fixture
def processor(assistant: Assistant) -> Processor:
    """The Processor of the tiny model."""
    return assistant.processor


@pytest.fixture(scope="session")
def shipped() -> Assistant:
    """The model that comes with tinyvid, which no test changes."""
    return Assistant.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ten questions about three clips, which no test changes."""
    return write_questions(tmp_path_factory.mktemp("questions"))
