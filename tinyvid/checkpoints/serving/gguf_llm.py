"""Write the LLM and its tokenizer as a GGUF file, with the keys and names of llama.cpp's converters."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving.chat_template import begins_with_bos
from tinyvid.errors import ConfigError
from tinyvid.generation.decode import stops
from tinyvid.models.llms.gguf import splitting_rule

KINDS = ("qwen2", "qwen3", "llama")  # model_type, which is also llama.cpp's name of the architecture
# Data types of matrices: llama.cpp's names of the type of a tensor and of a file.
TYPES = {
    torch.float32: ("F32", "ALL_F32"),
    torch.float16: ("F16", "MOSTLY_F16"),
    torch.bfloat16: ("BF16", "MOSTLY_BF16"),
}


def write(loaded: Loaded, file: Path, *, chat_template: str, dtype: torch.dtype) -> None:
    """Write the LLM of a model and its tokenizer.

    Args:
        loaded: The model, with an LLM of one of ``KINDS``.
        file: The file to write.
        chat_template: Jinja that writes a prompt.
        dtype: Data type of the matrices.

    Raises:
        ConfigError: The LLM scales its positions or attends within a window, or llama.cpp does not have its tokenizer.
    """
    import gguf

    llm: Any = loaded.model.llm
    config = llm.config
    refuse_positions(config)
    rule = splitting_rule(loaded.processor.tokenizer)
    writer = gguf.GGUFWriter(file, config.model_type)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(file.stem)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_file_type(gguf.LlamaFileType[TYPES[dtype][1]])
    if config.model_type == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, loaded, rule, chat_template)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, config.model_type.upper()), config.num_hidden_layers)
    for key, tensor in _weights(llm):
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError(f"to=gguf: llama.cpp has no place for {key!r} of a '{config.model_type}' model")
        add(writer, name, tensor, dtype)
    finish(writer)


def add(writer: Any, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Add a tensor to a file; vectors are always in float32."""
    import gguf

    kind = gguf.GGMLQuantizationType[TYPES[dtype if tensor.ndim > 1 else torch.float32][0]]
    values: np.ndarray = tensor.detach().float().cpu().contiguous().numpy()
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def finish(writer: Any) -> None:
    """Write what was added to a file, and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_positions(config: Any) -> None:
    """Raise ``ConfigError`` if an LLM scales its positions, or attends only within a window."""
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise ConfigError(
            f"to=gguf: the LLM scales its positions by '{kind}', which this export does not write; use "
            "llm.rope_scaling=none, or export with to=llava, to=smolvlm or to=internvl and convert with llama.cpp"
        )
    if getattr(config, "use_sliding_window", False):
        raise ConfigError("to=gguf: the LLM attends within a window (use_sliding_window), which llama.cpp does not")


def _weights(llm: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights, without a tied head; llama.cpp rotates neighboring values of a Llama's heads, not halves."""
    config = llm.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in llm.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        part = key.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            # (heads * 2 * half, ...): the two halves of a head become pairs
            tensor = tensor.unflatten(0, (heads[part], 2, -1)).transpose(1, 2).flatten(0, 2)
        yield key, tensor


def _add_tokenizer(writer: Any, loaded: Loaded, rule: str, chat_template: str) -> None:
    """Add the tokenizer. The end of the template's replies becomes the end of a text, at which llama.cpp stops."""
    import gguf

    tokenizer, rows = loaded.processor.tokenizer, loaded.model.llm.config.vocab_size
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    kinds, texts = [], []
    for number in range(rows):
        added = tokenizer.added_tokens_decoder.get(number)
        texts.append(by_id.get(number, f"[PAD{number}]"))
        if number not in by_id:
            kinds.append(gguf.TokenType.UNUSED)
        elif added is None:
            kinds.append(gguf.TokenType.NORMAL)
        else:
            kinds.append(gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    with TemporaryDirectory(prefix="tinyvid-") as folder:
        copy = deepcopy(tokenizer)
        copy.chat_template = chat_template
        copy.save_pretrained(folder)
        special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=rows)
    special.chat_template = chat_template
    special.add_special_token["bos"] = begins_with_bos(tokenizer)
    ends = [tokenizer.convert_tokens_to_ids(stop) for stop in loaded.processor.template.stop]
    if ends and ends[0] in stops(loaded.processor)[0]:
        special.special_token_ids["eos"] = ends[0]
    special.add_to_gguf(writer, quiet=True)
