"""Tiny random models on disk, and configurations that compose them."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GemmaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.goldens import TINYLLAVA_VIDEO
from tests.towers import save_siglip
from tinyvid import Assistant, compose

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,  # a block of 4-bit weights spans 64 of them
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,  # with the default 0.02, such a narrow model gives the same reply to every video
}

# The smallest model with text before each frame, as Chain-of-Frames has it; not trained.
NUMBERED_FRAMES = (
    "llm=qwen2_5_tiny",
    "vision_tower=siglip_tiny_64",
    "connector=mlp",
    "connector.pool=2",
    "sampler=uniform",
    "template=role_tokens",
    "template.frame='Frame {i}: {video}\n'",
)

# LLMs of other designs: transposed linear layers, positions by distance, no attention, capped attention logits.
OTHERS = {
    "gpt2": {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "mpt": {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4},
    "mamba": {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "gemma2": SIZES | {"head_dim": 16},
}


def save_llm(folder: Path, family: str = "qwen2", seed: int = 0) -> Path:
    """Write a two-layer LLM with its tokenizer, and return the folder."""
    torch.manual_seed(seed)
    if family == "phi":
        model = PhiForCausalLM(PhiConfig(**SIZES | {"num_key_value_heads": 4}, resid_pdrop=0.0))
    elif family == "gemma":
        model = GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=16))
    elif family in OTHERS:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **OTHERS[family]))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True))
    model.save_pretrained(folder)
    source = TINYLLAVA_VIDEO / ("group_phi" if family == "phi" else "group_qwen2")
    AutoTokenizer.from_pretrained(source, config=model.config).save_pretrained(folder)
    return folder


def tiny_overrides(folder: Path, *, connector: str = "group", family: str = "qwen2") -> list[str]:
    """Write a tiny LLM and a tiny SigLIP to ``folder``, and return the overrides that compose them."""
    llm, tower = folder / f"llm_{family}", folder / "tower"
    if not llm.exists():
        save_llm(llm, family)
    if not tower.exists():
        save_siglip(tower)
    overrides = [
        f"llm={ {'qwen2': 'qwen2_5_0_5b', 'phi': 'phi2'}.get(family, 'auto') }",
        f"llm.path={llm}",
        "llm.max_length=1024",
        "vision_tower=siglip_base_224",
        f"vision_tower.path={tower}",
        f"connector={connector}",
        "sampler.num_frames=4",
    ]
    if connector == "llamavid":
        overrides += ["text_decoder.dim=32", "text_decoder.num_heads=2"]
    if connector in ("group", "naive"):
        overrides += ["connector.num_queries=16", "connector.depth=1"]
    if connector == "group":
        overrides += ["connector.num_groups=4"]
    return overrides


def tiny_config(folder: Path, **kwargs: str) -> DictConfig:
    """Return the configuration of a tiny model."""
    return compose(tiny_overrides(folder, **kwargs))


def tiny_assistant(
    folder: Path, *overrides: str, connector: str = "group", family: str = "qwen2", **how: str
) -> Assistant:
    """Return a tiny model that the test may change; see ``build_once``."""
    return build_once(*tiny_overrides(folder, connector=connector, family=family), *overrides, **how)


def build_once(*overrides: str, **how: str) -> Assistant:
    """Return a copy of the model of these overrides with seed 0; only the first call builds it."""
    assistant = deepcopy(_build(overrides, **how))
    torch.manual_seed(0)
    return assistant


@cache
def _build(overrides: tuple[str, ...], **how: str) -> Assistant:
    torch.manual_seed(0)
    return Assistant.from_config(compose(overrides), **{"device": "cpu"} | how)
