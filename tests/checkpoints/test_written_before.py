"""Checkpoints written at commit bc4b96a still load: the same logits and reply, and a save writes the same groups.

``group`` stores every part; ``llamavid_lora`` adds adapters of the LLM and of a connector with a text decoder.
"""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.goldens import DATA
from tinyvid import Assistant, Message, Sample

FOLDER = DATA / "native_checkpoints"
NAMES = ("group", "llamavid_lora")
TOLERANCE = 1e-5  # bit-equal where they were written; another CPU may order float32 sums differently


@pytest.fixture(scope="module", params=NAMES)
def written(request):
    return FOLDER / request.param


@pytest.fixture(scope="module")
def assistant(written):
    return Assistant.from_pretrained(written, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def expected(written):
    return load_file(written / "expected.safetensors") | json.loads((written / "expected.json").read_text())


def test_logits(assistant, expected):
    messages = [Message("user", "What moves?"), Message("assistant", "A dog, to the left.")]
    sample = Sample(messages, video=expected["frames"].numpy())
    batch = assistant.processor.collate([assistant.processor(sample)])
    assert torch.equal(batch.input_ids, expected["input_ids"])
    with torch.no_grad():
        logits = assistant.model(batch).logits
    torch.testing.assert_close(logits, expected["logits"], atol=TOLERANCE, rtol=TOLERANCE)


def test_reply(assistant, expected):
    assert assistant.ask(expected["frames"].numpy(), "What moves?", max_new_tokens=16) == expected["reply"]


def test_a_save_writes_the_same_groups_and_weights(written, assistant, tmp_path):
    assistant.save_pretrained(tmp_path / "again")
    before, after = (yaml.safe_load((path / "tinyvid.yaml").read_text()) for path in (written, tmp_path / "again"))
    before["video_reader"] |= {"isolate": False}  # options that were added later, with their defaults
    before["template"] |= {"time": "{:.1f} s", "time_steps": None}
    before["template"] |= {"start": "", "system_turn": "own", "text_prefix": "", "heading": ""}
    before["vision_tower"] |= {"final_norm": False}
    assert after.pop("digests").keys() == {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert after | {"version": before["version"]} == before
    files = [file.relative_to(written) for file in written.rglob("*.safetensors") if file.stem != "expected"]
    assert files
    for file in files:
        old, new = load_file(written / file), load_file(tmp_path / "again" / file)
        assert old.keys() == new.keys(), file
        assert all(torch.equal(old[key], new[key]) for key in old), file
