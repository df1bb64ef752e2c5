"""Keys of other projects: three spellings are one, and every key belongs to a part."""

import pytest
import torch

from tinyvid.checkpoints.compat.keys import canonical, split
from tinyvid.errors import CheckpointError

ONE = torch.ones(1)
CANONICAL = {
    "model.vision_tower.encoder.x",
    "model.multi_modal_projector.linear_1.bias",
    "model.language_model.norm.weight",
    "model.image_newline",
    "lm_head.weight",
}
SPELLINGS = (
    [
        "vision_tower.encoder.x",
        "multi_modal_projector.linear_1.bias",
        "language_model.model.norm.weight",
        "image_newline",
        "language_model.lm_head.weight",
    ],
    [
        "vision_tower.vision_model.encoder.x",
        "multi_modal_projector.linear_1.bias",
        "language_model.model.norm.weight",
        "image_newline",
        "language_model.lm_head.weight",
    ],
    sorted(CANONICAL),
)
PREFIXES = {"model.vision_tower.": "vision_tower.", "model.language_model.": "llm.model.", "lm_head.": "llm.lm_head."}


@pytest.mark.parametrize("keys", SPELLINGS)
def test_spellings(keys):
    assert canonical(dict.fromkeys(keys, ONE)).keys() == CANONICAL


def test_two_spellings_of_a_name_are_refused():
    with pytest.raises(CheckpointError, match=r"contain 'lm_head.weight' under two names, .*'lm_head.weight'"):
        canonical({"language_model.lm_head.weight": ONE, "lm_head.weight": ONE})


def test_parts():
    keys = ["model.vision_tower.a", "model.language_model.norm", "lm_head.weight", "model.vision_tower.head.b"]
    keys += ["model.vision_tower.embeddings.position_ids", "model.language_model.rotary_emb.inv_freq"]
    parts = split("x", dict.fromkeys(keys, ONE), PREFIXES, unused=r"model\.vision_tower\.head\.")
    assert {part: sorted(weights) for part, weights in parts.items()} == {
        "vision_tower": ["a"],
        "llm": ["lm_head.weight", "model.norm"],
        "connector": [],
    }


def test_the_longest_prefix_applies():
    parts = split("x", {"mlp.0.weight": ONE}, {"mlp.": "connector.", "mlp.0.": "connector.norm."})
    assert parts["connector"].keys() == {"norm.weight"}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("visual.a", r"x contains weights that do not belong to any part: \[visual.a\]"),
        *(
            (f"lm_head.{name}", rf"x contains quantized weights: \[lm_head.{name}\]; .*quant=nf4")
            for name in ("qweight", "scales", "SCB", "weight.absmax", "weight_scale_inv")
        ),
    ],
)
def test_refused_keys(key, message):
    with pytest.raises(CheckpointError, match=message):
        split("x", {key: ONE}, PREFIXES)
