"""A difference between an export and its model is found, and the report shows it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.goldens import FAMILIES
from tests.runs import load_program
from tinyvid import Assistant, CheckpointError
from tinyvid.checkpoints.serving import parity, writing
from tinyvid.types import ImageSpec

program = load_program("export")
GOOD = parity.Parity("a|b.mp4", 3, 70, 0.0, True, 0.4, "one\ntwo", "one\ntwo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"logits": 0.2}, "logits differ by 0.2, more than tolerance=0.0001"),
        ({"logits": float("nan")}, "logits differ by nan"),
        ({"prompt": False}, "another prompt"),
        ({"pixels": 9.0}, "differs by 9.0 of 255 levels"),
        ({"prompt": None, "pixels": None}, ""),
    ],
)
def test_faults(changes, message):
    found = parity.fault([GOOD, replace(GOOD, **changes)], 1e-4)
    assert message in found
    assert bool(found) == bool(message)


def test_the_report(tmp_path):
    parity.write_report(tmp_path, [GOOD, replace(GOOD, prompt=None, pixels=None)], ["A note."], 1e-4)
    text = (tmp_path / "parity.md").read_text()
    assert "| a|b.mp4" not in text
    assert "| one two | one two |" in text
    assert "- A note." in text
    assert "not compared" in text
    stored = json.loads((tmp_path / "parity.json").read_text())
    assert stored["clips"][0]["reply"] == "one\ntwo"
    assert stored["largest"] == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    assistant = Assistant.from_pretrained(
        FAMILIES / "llava_siglip" / "hf", device="cpu", dtype="float32", sampler={"name": "uniform", "num_frames": 2}
    )
    writing.write(assistant.loaded, folder, "llava")
    return assistant, folder


def spoil(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_other_weights_and_missing_weights_are_found(written):
    assistant, folder = written
    (sample,) = program.samples_of(None, 1, "What moves?")
    key = "model.multi_modal_projector.linear_1.bias"

    spoil(folder, lambda tensors: tensors[key].add_(1))
    (found,) = parity.compare(assistant.loaded, folder, "llava", [sample], reply_tokens=2)
    assert "logits differ by" in parity.fault([found], 1e-4)
    spoil(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(CheckpointError, match=f"does not load all weights of the export.*{key}"):
        parity.compare(assistant.loaded, folder, "llava", [sample], reply_tokens=2)


def test_a_crop_may_be_one_pixel_off():
    ours = torch.rand(2, 3, 9, 9)
    crop, stretch = (ImageSpec(9, (0.5,) * 3, (0.5,) * 3, "bicubic", resize) for resize in ("crop", "stretch"))
    for shift in ((0, 0), (0, 1), (-1, 0), (1, -1)):
        assert parity._levels(ours.roll(shift, (-2, -1)), ours, crop) == 0
    assert parity._levels(ours.roll(2, -1), ours, crop) > parity.MAX_LEVELS
    assert parity._levels(ours.roll(1, -1), ours, stretch) > parity.MAX_LEVELS
