"""Write parts with random weights for the model that ``GROUPS`` composes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.shapes.sizes import Size
from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec

# The parts of the default model; the run overrides their paths.
GROUPS = (
    "llm=qwen2_5_tiny",
    "llm.tokenizer=null",
    "vision_tower=siglip_tiny_64",
    "connector=group_mixer",
    "template=role_tokens",
)
CONTROL = ("<|end|>", "<|user|>", "<|assistant|>", "<|pad|>")


def make_tower(folder: Path, size: Size, *, seed: int) -> None:
    """Write a vision tower with random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    config = SiglipVisionConfig(**size.vision)
    model = SiglipVisionModel(config)
    initialize(model)
    SiglipTower(model, default_image_spec(config), layer=-1).save(folder)


def make_llm(folder: Path, size: Size, texts: Iterable[str], *, seed: int) -> None:
    """Write an LLM with random weights, and a tokenizer in which every word of ``texts`` is one token."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(texts)
    torch.manual_seed(seed)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **size.llm, **ends))
    initialize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(texts: Iterable[str]) -> Any:
    """Train a byte-level BPE tokenizer in which every word of ``texts`` and every digit is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CONTROL[0],
        pad_token=CONTROL[3],
        additional_special_tokens=list(CONTROL[1:3]),
    )


def initialize(module: nn.Module) -> None:
    """Initialize linear layers with std ``in_features**-0.5`` (half of it at block outputs), embeddings with 0.08.

    The usual 0.02 suits wide models; at a width of 100 or 200 it slows learning.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            scale = 0.5 if name.endswith(("o_proj", "down_proj", "out_proj", "fc2", "to_out", ".3")) else 1.0
            nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.08)
