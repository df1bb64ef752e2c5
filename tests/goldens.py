"""Recorded outputs of other projects in ``tests/data``, and conversations of TinyLLaVA-Video as messages."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tinyvid import Message

DATA = Path(__file__).parent / "data"
TINYLLAVA_VIDEO = DATA / "tinyllava_video"
FULL_CHECKPOINTS = ("group_qwen2", "naive_qwen2", "group_phi")
FAMILIES = DATA / "families"  # tiny random models in the layouts of other projects, with recorded outputs
TEMPLATE_OF = {"group_qwen2": "qwen2_base", "naive_qwen2": "qwen2_base", "group_phi": "phi"}


def read_json(name: str) -> Any:
    return json.loads((TINYLLAVA_VIDEO / name).read_text())


def read_oracle(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the recorded tensors of a family, and its prompt."""
    folder = FAMILIES / name
    return load_file(folder / "oracle.safetensors"), json.loads((folder / "oracle.json").read_text())


def to_messages(conversation: list[dict[str, str]]) -> list[Message]:
    """Follow the original: drop a leading reply, and move each marker to the front of its question."""
    turns = conversation if conversation[0]["from"] == "human" else conversation[1:]
    messages = []
    for turn in turns:
        role = "user" if turn["from"] == "human" else "assistant"
        marked = role == "user" and "<image>" in turn["value"]
        text = turn["value"].replace("<image>", "").strip() if marked else turn["value"]
        messages.append(Message(role, text, videos=int(marked)))
    return messages
