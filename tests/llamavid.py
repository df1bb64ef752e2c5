"""Shared helpers for the tests of LLaMA-VID's connector: goldens, tiny text decoders and their tokenizers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.goldens import DATA
from tinyvid.build import build_connector
from tinyvid.types import FeatureSpec, Question

GOLDENS = DATA / "llama_vid"
D = 32
SPEC = FeatureSpec(dim=24, num_patches=16, grid=(4, 4))
BERT_SIZES = {"path": None, "dim": 32, "num_layers": 3, "num_heads": 4, "mlp_dim": 48, "vocab_size": 60}
DECODERS: dict[str, dict[str, Any]] = {
    "llm_embed": {"name": "llm_embed", "dim": 32, "num_heads": 4, "max_length": 24},
    "qformer": {"name": "qformer", **BERT_SIZES, "num_queries": 5, "num_positions": 32, "max_length": 24},
    "bert": {"name": "bert", **BERT_SIZES, "num_positions": 32, "max_length": 24},
    "siglip_text": {"name": "siglip_text", **BERT_SIZES, "max_length": 24},
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?.,", "what", "who", "moves"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def save_tokenizer(folder: Path) -> Path:
    """Write an uncased WordPiece tokenizer of 63 tokens, and return the folder."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def make(
    decoder: str = "llm_embed", *, spec: FeatureSpec = SPEC, seed: int = 0, sizes: Any = (), **options: Any
) -> Any:
    """Return a connector in eval mode, with a tiny text decoder."""
    torch.manual_seed(seed)
    group = {"name": "llamavid", **options}
    return build_connector(group, features=spec, llm_dim=D, text_decoder=DECODERS[decoder] | dict(sizes)).eval()


def ask(seed: int = 0, length: int = 6) -> Question:
    """Return a question of random words, for any text decoder."""
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (length,), generator=chance)
    return Question(f"question {seed}", ids, torch.randn(length, D, generator=chance))


def padded(question: Question, count: int) -> Question:
    """Return a question followed by ``count`` masked random tokens."""
    garbage = ask(99, count)
    mask = torch.arange(len(question.ids) + count) < len(question.ids)
    return Question(
        question.text,
        torch.cat([question.ids, garbage.ids]),
        torch.cat([question.embeddings, 50 * garbage.embeddings]),
        mask,
    )


def random_features(num_frames: int, spec: FeatureSpec = SPEC) -> torch.Tensor:
    """Return features of a clip."""
    return torch.randn(num_frames, spec.num_patches, spec.dim, generator=torch.Generator().manual_seed(num_frames))


def golden(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the options and tensors of a recorded run of the original code."""
    return json.loads((GOLDENS / f"{name}.json").read_text()), load_file(GOLDENS / f"{name}.safetensors")
