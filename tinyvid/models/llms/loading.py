"""Load a causal LLM and its tokenizer: dtype, attention implementation, 4- and 8-bit weights, all at load time.

Weights come from a directory, a hub id, or tensors already in memory (another project's checkpoint). No remote code
runs, and the vocabulary is never resized.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.files import read_json, read_text
from tinyvid.models.folders import CONFIG, TOKENIZER, VOCABULARIES, loading, opened
from tinyvid.models.llms.gguf import is_gguf, read_gguf_config, read_gguf_tensors, read_gguf_tokenizer
from tinyvid.models.llms.rope import Rope, Scaling, check_positions, scale_positions
from tinyvid.models.weights import building_on, load_pretrained, read_config, without_weights
from tinyvid.protocols import LanguageModel
from tinyvid.registry import PositiveFloat, PositiveInt

Attention = Literal["sdpa", "flash_attention_2", "eager"]
NO_CODE = {"trust_remote_code": False}  # without it, transformers may prompt on the terminal and wait
PROBE = "What moves?\n1. A dog, to the left. \u6570\u636e"
QUANTS = ("none", "nf4", "int8")
VOCABULARY = ("tokenizer.json", "added_tokens.json")
MAX_SPECIAL = 500  # special tokens that are looked for in these files


def load(  # noqa: PLR0913 - the options of every LLM and the runtime arguments
    model_type: str | None,
    *,
    path: str,
    revision: str | None = None,
    tokenizer: str | None = None,
    attention: Attention = "sdpa",
    max_length: PositiveInt = 2048,
    rope_scaling: Scaling = "none",
    rope_factor: PositiveFloat = 1.0,
    dtype: torch.dtype,
    quant: str,
    device: str,
) -> LanguageModel:
    """Load an LLM from a directory or a hub id.

    Args:
        model_type: Required ``model_type`` of the configuration; ``None`` accepts any.
        path: Directory in the layout of transformers, hub id, or ``.gguf`` file.
        revision: Commit, branch or tag on the hub.
        tokenizer: Directory or hub id of the tokenizer, if it is not stored with the weights.
        attention: Attention implementation of transformers.
        max_length: Longest sequence, in tokens.
        rope_scaling: How to extend positions beyond the trained range; see ``rope.Rope``.
        rope_factor: Factor by which the positions are extended.
        dtype: Dtype of the weights, or of the computation if the weights are quantized.
        quant: ``none``, ``nf4`` or ``int8``.
        device: Where the weights go.

    Raises:
        ConfigError: The model is of another family, or its context is shorter than ``max_length``.
        CheckpointError: The path cannot be read, or its weights are incomplete.
    """
    from transformers import AutoConfig  # heavy: only when a model is loaded

    with loading("llm", path):
        read = read_gguf_config(path, revision) if is_gguf(path) else read_config("llm", path, revision=revision)
        config = AutoConfig.for_model(**read)
        if model_type is not None and config.model_type != model_type:
            raise ConfigError(
                f"llm.path={path!r} contains a model of type '{config.model_type}', but this llm needs '{model_type}'; "
                "use llm=auto for any causal LM of transformers"
            )
        scale_positions(config, Rope(rope_scaling, rope_factor))
        return from_weights(
            config,
            path=path,
            revision=revision,
            state_dict=_gguf_weights(config, path, revision, dtype) if is_gguf(path) else None,
            tokenizer=load_tokenizer(tokenizer or path, revision=None if tokenizer else revision),
            attention=attention,
            max_length=max_length,
            dtype=dtype,
            quant=quant,
            device=device,
        )


def from_weights(
    config: Any,
    *,
    path: str,
    revision: str | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    tokenizer: Any,
    attention: str,
    max_length: int,
    dtype: torch.dtype,
    quant: str,
    device: str,
) -> LanguageModel:
    """Build an LLM from its configuration and the weights in ``state_dict`` or, without it, ``path``; see ``load``."""
    check_positions(config, max_length)
    from transformers import GenerationConfig

    model_class = _model_class(config, path)
    _check_attention(model_class, config.model_type, attention)
    model = load_pretrained(
        "llm",
        path,
        model_class,
        config=config,
        state_dict=None if state_dict is None else dict(state_dict),
        revision=revision,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=_quantization(quant, dtype),
        device_map={"": device},
    )
    # A base model's own generation settings (sampling, repetition penalty) would leak into every reply.
    model.generation_config = GenerationConfig()
    return LanguageModel(model=model.eval(), tokenizer=tokenizer, max_length=max_length)


def _model_class(config: Any, path: str) -> Any:
    """Return the class of a causal LM; ``AutoModelForCausalLM`` would look for code next to the weights.

    Raises:
        ConfigError: The configuration is not that of a causal LM.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"llm.path={path!r} contains a model of type '{config.model_type}', which is not a causal LM; "
            "choose a path of a causal LM"
        )
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _gguf_weights(config: Any, path: str, revision: str | None, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Return the weights in a GGUF file; ``None`` on the meta device, where no weights are read."""
    if without_weights():
        return None
    from transformers.initialization import no_init_weights

    with building_on("meta"), no_init_weights():
        expected = _model_class(config, path)(copy.deepcopy(config))
    return read_gguf_tensors(path, expected, dtype, revision)


def _check_attention(model_class: Any, model_type: str, attention: str) -> None:
    """Raise ``ConfigError`` if transformers has no such attention implementation for a model."""
    supported = {
        "sdpa": getattr(model_class, "_supports_sdpa", False),
        "flash_attention_2": getattr(model_class, "_supports_flash_attn", False),
    }
    if not supported.get(attention, True):
        others = [name for name, has in supported.items() if has]
        raise ConfigError(
            f"llm.attention={attention} is not available for models of type '{model_type}'; set llm.attention="
            f"{' or '.join(['eager', *others])}"
        )


def load_tokenizer(path: str, *, revision: str | None = None, config: Any = None) -> Any:
    """Load a tokenizer from a directory, a hub id or a ``.gguf`` file.

    ``config`` is the LLM's if the directory is another project's.

    Raises:
        CheckpointError: ``path`` contains no vocabulary, or transformers cannot load its tokenizer.
    """
    from transformers import AutoTokenizer

    if is_gguf(path):
        return _tried(read_gguf_tokenizer(path, revision), path)
    names, extra = (TOKENIZER, {"config": config}) if config is not None else ((CONFIG, *TOKENIZER), {})
    with opened("tokenizer", path, names, revision=revision) as folder:
        if not any(all((folder / name).is_file() for name in files) for files in VOCABULARIES):
            choices = ", ".join(" with ".join(files) for files in VOCABULARIES)
            raise CheckpointError(f"the tokenizer in {path!r} has no vocabulary; expected one of {choices}")
        tokenizer = _tried(AutoTokenizer.from_pretrained(folder, **NO_CODE, **extra), path)
        tokenizer.invented = _invented(tokenizer, folder)
        return tokenizer


def _invented(tokenizer: Any, folder: Path) -> frozenset[str]:
    """Return special tokens that only ``tokenizer_config.json`` names: transformers gives them ids of its own."""
    if not (folder / "tokenizer.json").is_file():
        return frozenset()
    text = "".join(read_text(folder / name) for name in VOCABULARY if (folder / name).is_file())
    file = folder / "tokenizer_config.json"
    decoder = str(read_json(file).get("added_tokens_decoder")) if file.is_file() else ""
    special = [str(token) for token in tokenizer.all_special_tokens[:MAX_SPECIAL]]
    unlisted = [token for token in special if repr(token) not in decoder]
    written = {token: (json.dumps(token), json.dumps(token, ensure_ascii=False)) for token in unlisted}
    return frozenset(token for token, forms in written.items() if not any(form in text for form in forms))


def _tried(tokenizer: Any, path: str) -> Any:
    """Return a tokenizer after using it once, with the name of its source."""
    tokenizer.name_or_path = path  # not the temporary folder
    tokenizer.clean_up_tokenization_spaces = False  # transformers warns about files that set this, and ignores them
    tokenizer.decode(tokenizer(PROBE).input_ids)  # some damage is found only by use
    return tokenizer


def check_vocabulary(llm: LanguageModel, control_tokens: Sequence[str]) -> None:
    """Check that a tokenizer can be that of an LLM, and that every token in a prompt has an embedding.

    Special tokens that no prompt contains may lack one: transformers adds some to a tokenizer without asking.

    Args:
        llm: The LLM with its tokenizer.
        control_tokens: The special tokens of the template.

    Raises:
        CheckpointError: A token has no embedding, fewer than half of the embeddings have a token, or the vocabulary
            lacks a control token.
    """
    tokenizer, num_embeddings = llm.tokenizer, len(llm.model.get_input_embeddings().weight)
    if lacking := sorted(getattr(tokenizer, "invented", frozenset()).intersection(control_tokens)):
        raise CheckpointError(
            f"the vocabulary of the tokenizer in {tokenizer.name_or_path!r} lacks {', '.join(lacking)}, which "
            "tokenizer_config.json names and the template needs; restore tokenizer.json"
        )
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    unread = special - {*control_tokens, tokenizer.pad_token, tokenizer.eos_token}
    ids = [number for token, number in tokenizer.get_vocab().items() if token not in unread]
    # Embeddings may be padded, but not to twice the number of tokens.
    if max(ids, default=0) >= num_embeddings or 2 * len(ids) < num_embeddings:
        raise CheckpointError(
            f"the tokenizer in {tokenizer.name_or_path!r} has {len(ids):,} tokens with ids up to "
            f"{max(ids, default=0):,}, but the LLM has {num_embeddings:,} embeddings; restore the tokenizer that it "
            "was trained with"
        )


def _quantization(quant: str, dtype: torch.dtype) -> Any:
    if quant == "none":
        return None
    if quant not in QUANTS:
        raise ConfigError(f"quant={quant!r} is unknown. {suggest(quant, QUANTS)}")
    try:
        import bitsandbytes  # noqa: F401 - an optional dependency, needed for quantization only
    except ImportError as error:
        raise ConfigError(f"quant={quant} needs bitsandbytes: pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
