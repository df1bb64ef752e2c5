"""What tinyvid relies on in each family of LLMs: embeddings for ids, padding on either side, packed questions apart."""

import pytest
import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from tinyvid.errors import ConfigError
from tinyvid.models.llms.packing import check_packing
from tinyvid.models.video_llm import VideoLLM, _block_mask
from tinyvid.processing.batch import Batch
from tinyvid.processing.collate import positions_of
from tinyvid.types import IGNORE_INDEX

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
FAMILIES = {
    "qwen3": {"head_dim": 8},
    "llama": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 128},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
}  # fmt: skip
PREFIX, BLOCK = 6, 5


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request):
    """A tiny random LLM of a family. Tests must not change it."""
    return make(request.param)


def make(family, **options):
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **options})
    torch.manual_seed(0)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


def tokens(*shape):
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(1))


def labelled(ids, blocks=None, *, mask=None):
    """Return a batch without videos, in which every position but the first is a label."""
    labels = ids.clone()
    labels[:, 0] = IGNORE_INDEX
    real = torch.ones_like(ids) if mask is None else mask
    return Batch(ids, labels, real, torch.zeros_like(ids, dtype=torch.bool), blocks=blocks)


@torch.no_grad()
def test_embeddings_equal_ids(llm):
    ids = tokens(2, 12)
    embeddings = llm.get_input_embeddings()(ids)
    torch.testing.assert_close(llm(inputs_embeds=embeddings).logits, llm(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_left_padding_changes_nothing(llm):
    ids, pad = tokens(1, 7), 5
    padded = torch.cat([torch.zeros(1, pad, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(7 + pad) >= pad).long()[None]
    batch = labelled(padded, mask=mask)
    logits = llm(
        inputs_embeds=llm.get_input_embeddings()(padded), attention_mask=mask, position_ids=positions_of(batch)
    ).logits
    torch.testing.assert_close(logits[:, pad:], llm(ids).logits, atol=1e-5, rtol=0)


def packed(prefix, *questions):
    blocks = torch.cat([torch.zeros(PREFIX), *(torch.full((BLOCK,), k + 1) for k in range(len(questions)))]).long()
    return labelled(torch.cat([prefix, *questions], dim=1), blocks[None])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "lfm2"])
@torch.no_grad()
def test_packed_questions_do_not_see_each_other(family):
    llm = make(family)
    check_packing(llm, 64)
    prefix, first, second = tokens(1, PREFIX + 2 * BLOCK).split([PREFIX, BLOCK, BLOCK], dim=1)
    model = VideoLLM(llm, nn.Identity(), nn.Identity())
    logits = model(packed(prefix, first, second)).logits
    alone = model(labelled(torch.cat([prefix, second], dim=1))).logits
    torch.testing.assert_close(logits[-BLOCK + 1 :], alone[-BLOCK + 1 :], atol=1e-5, rtol=0)


@torch.no_grad()
def test_packing_is_refused_for_layers_that_mix_positions_without_attention():
    llm = make("lfm2")
    prefix, first, second = tokens(1, PREFIX + 2 * BLOCK).split([PREFIX, BLOCK, BLOCK], dim=1)
    batch = packed(prefix, first, second)
    with pytest.raises(ConfigError, match=r"'lfm2': its convolutional or recurrent layers \(conv\) .*recipe.pack=1"):
        VideoLLM(llm, nn.Identity(), nn.Identity())(batch)
    mask = _block_mask(batch.attention_mask, batch.blocks)
    logits = llm(batch.input_ids, attention_mask=mask, position_ids=positions_of(batch)).logits[:, -BLOCK:]
    alone = llm(torch.cat([prefix, second], dim=1)).logits[:, -BLOCK:]
    assert (logits - alone).abs().max() > 0.1  # what the refusal prevents


@pytest.mark.parametrize(("family", "options", "message"), [
    ("mamba", {"num_hidden_layers": 1}, "type 'mamba': its convolutional or recurrent layers"),
    ("mpt", {"d_model": 32, "n_layers": 1, "n_heads": 2}, "type 'mpt': it takes no positions"),
    ("gemma3_text", FAMILIES["gemma3_text"], "beyond its attention window of 64 tokens.*llm.max_length=64"),
])  # fmt: skip
def test_other_llms_that_cannot_pack(family, options, message):
    sizes = SIZES if family == "gemma3_text" else {"vocab_size": 64, "hidden_size": 32}
    config = AutoConfig.for_model(family, **{**sizes, **options})
    llm = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with pytest.raises(ConfigError, match=message):
        check_packing(llm, 65)
