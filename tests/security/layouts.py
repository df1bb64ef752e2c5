"""Checkpoints in every layout and parts in every format, which tests may change, and a record of what is opened."""

import json
import shutil
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.factories import save_llm
from tests.goldens import DATA, FAMILIES, TINYLLAVA_VIDEO
from tests.towers import TOWERS
from tinyvid import Assistant
from tinyvid.registry import LLMS, VISION_TOWERS

CHECKPOINTS = {
    "native": DATA / "native_checkpoints" / "group",
    "native_lora": DATA / "native_checkpoints" / "llamavid_lora",
    "tinyllava_video": TINYLLAVA_VIDEO / "group_qwen2",
    "tinyllava_video_folders": TINYLLAVA_VIDEO / "group_qwen2_folders",
    "tinyllava_video_lora": TINYLLAVA_VIDEO / "group_qwen2_lora",
    "internvl": FAMILIES / "internvl_internlm2" / "original",
    "internvl_transformers": FAMILIES / "internvl_qwen2" / "hf",
}
PARTS = {"llm": save_llm, **TOWERS}
NESTED = ("text_config", "llm_config", "vision_config", "model_cfg", "pretrained_cfg", "model_args")


@cache
def source(layout):
    """Return the folder of a layout, which tests must not change."""
    return CHECKPOINTS[layout] if layout in CHECKPOINTS else PARTS[layout](Path(built().name) / layout)


@cache
def built():
    """Return a folder that is removed when the process ends."""
    return TemporaryDirectory(prefix="layouts-")


def copied(layout, folder):
    """Copy a layout to a folder that does not exist."""
    return Path(shutil.copytree(source(layout), folder))


@cache
def loaded(layout):
    """Return the modules of the unchanged layout."""
    return load(layout, source(layout))


def edit_configs(folder, **settings):
    """Add settings to every JSON file of the folder that has an object at its top."""
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text())
        if file.name in ("tokenizer.json", "vocab.json", "adapter_config.json") or not isinstance(content, dict):
            continue
        nested = {key: value | settings for key, value in content.items() if key in NESTED}
        file.write_text(json.dumps(content | settings | nested))


def load(name, folder):
    """Return the modules of a layout, and its tokenizer's files."""
    if name in CHECKPOINTS:
        model = Assistant.from_pretrained(folder, device="cpu", dtype="float32").model
        return {"llm": model.llm, "vision_tower": model.vision_tower, "connector": model.connector}
    if name == "llm":
        options = {"name": "auto", "path": str(folder), "max_length": 64}
        return {"llm": LLMS.build(options, dtype=torch.float32, quant="none", device="cpu").model}
    options = {"name": name, "path": str(folder)}
    return {"vision_tower": VISION_TOWERS.build(options, dtype=torch.float32)}


watching: list[list[tuple[str, str]]] = []


def _audit(event, args):
    if watching and event in ("open", "import", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec"):
        watching[-1].append((event, str(args[0] if event != "socket.connect" else args[1])))


@contextmanager
def watched():
    """Record what Python opens, imports, starts and connects to."""
    if not hasattr(sys, "tinyvid_audit"):
        sys.tinyvid_audit = True
        sys.addaudithook(_audit)  # cannot be removed
    watching.append([])
    try:
        yield watching[-1]
    finally:
        watching.pop()


def same(one, other):
    states = one.state_dict(), other.state_dict()
    if states[0].keys() != states[1].keys() or [*map(str, one.modules())][1:] != [*map(str, other.modules())][1:]:
        return False
    settings = [getattr(getattr(model, "config", None), "_attn_implementation", None) for model in (one, other)]
    return settings[0] == settings[1] and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
