"""Read GGUF files, the format of llama.cpp: configuration, weights and tokenizer of an LLM in one file.

transformers reads them with the package gguf. Quantized weights are unpacked to floating point, so they take as much
memory as any others, can be trained, and can be quantized again by ``quant``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.models.folders import cleaned, opened
from tinyvid.models.weights import check_sizes, without_bars

SUFFIX = ".gguf"
SCALED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

# Rules of llama.cpp for splitting text before byte-level BPE, beside those that transformers knows.
DIGITS = ("smollm",)  # each digit by itself, the rest as GPT-2
PLAIN = ("gpt-2",)
# Rules that ``splitting_rule`` finds, beside these two: those of Qwen, Llama 3 and their like.
FOUND = ("qwen2", "llama-bpe", "qwen35", "tekken", "gpt-4o")
SPLIT = "It's 1 day, we'LL see 12345 dogs!?  \n\n  \tÉtés, сто собак, कुत्ता, 数据 42 🐕...\r\n  x_ oneWord HTTPServer"


def is_gguf(path: str) -> bool:
    """Return whether a path names a GGUF file."""
    return path.endswith(SUFFIX)


@contextmanager
def opened_gguf(part: str, path: str, revision: str | None = None) -> Iterator[Path]:
    """Yield a GGUF file in a temporary folder without other files; errors are raised as in ``folders.opened``.

    Raises:
        ConfigError: The package gguf is missing.
        CheckpointError: There is no such file.
    """
    try:
        import gguf  # noqa: F401 - an optional dependency; transformers imports it
    except ImportError as error:
        raise ConfigError(f"{part} {path!r} needs the package gguf: pip install 'tinyvid[gguf]'") from error
    place = Path(path)
    with opened(part, str(place.parent), [place.name], revision=revision) as folder:
        if not (folder / place.name).is_file():
            raise CheckpointError(f"the {part} {path!r} does not exist; check llm.path")
        yield folder / place.name


def read_gguf_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """Return the configuration of transformers for the LLM in a GGUF file.

    Raises:
        CheckpointError: The file cannot be read, its sizes are too large, or its positions are scaled.
    """
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with opened_gguf("llm", path, revision) as file:
        metadata, names = read_gguf_metadata(str(file))
        scaling = metadata.get(f"{metadata.get('general.architecture')}.rope.scaling.type", "none")
        tables = [name for name in SCALED if name in names]
        if tables or scaling != "none":
            raise CheckpointError(
                f"llm.path={path!r} scales positions ({', '.join(tables) or scaling}), which transformers does not "
                "read from GGUF files; use the model in transformers' format"
            )
        config = cleaned(load_gguf_checkpoint(str(file))["config"])
    check_sizes("llm", path, config)
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_gguf_tokenizer(path: str, revision: str | None = None) -> Any:
    """Return the tokenizer in a GGUF file.

    Raises:
        CheckpointError: The file cannot be read, or its rule for splitting text is unknown.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    with opened_gguf("tokenizer", path, revision) as file:
        metadata, _ = read_gguf_metadata(str(file))
        rule = metadata.get("tokenizer.ggml.pre")
        known = (*GGUF_PRE_TOKENIZER_SPLITS, *DIGITS, *PLAIN)
        if metadata.get("tokenizer.ggml.model") == "gpt2" and rule not in known:
            raise CheckpointError(
                f"the tokenizer in {path!r} splits text by the rule {rule!r}, which transformers does not know; set "
                "llm.tokenizer to a directory or hub id of the tokenizer"
            )
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        if rule in DIGITS:  # transformers would split like GPT-2, which differs before digits
            rules = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
            tokenizer.backend_tokenizer.pre_tokenizer = Sequence(rules)
        return tokenizer


def splitting_rule(tokenizer: Any) -> str:
    """Return llama.cpp's name of the rule by which a tokenizer splits text before byte-level BPE.

    Raises:
        ConfigError: It is not byte-level BPE, or llama.cpp's rule is unknown.
    """
    from tokenizers import Regex
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    splitter = getattr(backend, "pre_tokenizer", None)
    if splitter is not None and isinstance(backend.model, BPE) and not backend.model.byte_fallback:
        words = ByteLevel(add_prefix_space=False)
        known: dict[str, Any] = {rule: Sequence([Digits(individual_digits=True), words]) for rule in DIGITS}
        known |= dict.fromkeys(PLAIN, words)
        for rule in FOUND:
            pattern = Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[rule]), "isolated")
            known[rule] = Sequence([pattern, ByteLevel(add_prefix_space=False, use_regex=False)])
        wanted = splitter.pre_tokenize_str(SPLIT)
        for rule, each in known.items():
            if each.pre_tokenize_str(SPLIT) == wanted:
                return rule
    raise ConfigError(
        f"the rule by which the tokenizer {tokenizer.name_or_path!r} splits text is not one of those that can be named "
        f"in a GGUF file: byte-level BPE with {', '.join((*FOUND, *DIGITS, *PLAIN))}"
    )


def read_gguf_tensors(path: str, expected: Any, dtype: torch.dtype, revision: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a GGUF file, unpacked to ``dtype`` and with the names of ``expected``, a model on meta."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with opened_gguf("llm", path, revision) as file, without_bars():
        return load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=expected, torch_dtype=dtype)[
            "tensors"
        ]
