"""Translate the keys of other projects' weights into the keys of tinyvid's parts. Every key must belong to a part."""

import re
from collections.abc import Mapping

from torch import Tensor

from tinyvid.errors import CheckpointError
from tinyvid.models.weights import few

PARTS = ("llm", "vision_tower", "connector")
# transformers has written the same modules under three spellings; the last one is that of its modules today.
SPELLINGS = (
    (re.compile(r"language_model\.lm_head\."), "lm_head."),
    (re.compile(r"language_model\.model\."), "model.language_model."),
    (re.compile(r"(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
    (re.compile(r"(model\.)?multi_modal_projector\."), "model.multi_modal_projector."),
    (re.compile(r"(model\.)?image_newline$"), "model.image_newline"),
)
BUFFERS = re.compile(r"(position_ids|rotary_emb\.inv_freq)$")  # computed; older versions of transformers saved them
# What AWQ, GPTQ, bitsandbytes and FP8 store beside or in place of a weight.
QUANTIZED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|SCB|weight_scale(_inv)?|weight_packed|weight\.(absmax|quant_map|quant_state.*))$"
)


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a model of transformers under the names of its modules.

    The names are ``model.vision_tower.``, ``model.multi_modal_projector.``, ``model.language_model.`` and ``lm_head.``,
    for InternVL, LLaVA and LLaVA-OneVision alike. Keys of another form are unchanged.

    Raises:
        CheckpointError: Two keys are spellings of the same name.
    """
    return renamed(tensors, SPELLINGS)


def renamed(tensors: Mapping[str, Tensor], names: tuple[tuple[re.Pattern[str], str], ...]) -> dict[str, Tensor]:
    """Return weights with the start of each key replaced by the first pattern that matches it.

    Raises:
        CheckpointError: Two keys get the same name.
    """
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        pattern, name = next(((p, n) for p, n in names if p.match(key)), (None, ""))
        new = key if pattern is None else pattern.sub(name, key, count=1)
        if new in found:
            raise CheckpointError(f"the weights contain {new!r} under two names, one of them {key!r}; remove one")
        found[new] = value
    return found


def split(
    where: object, tensors: Mapping[str, Tensor], prefixes: Mapping[str, str], *, unused: str = "(?!)"
) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each part, by the names in its module: of ``llm``, ``vision_tower`` and ``connector``.

    Args:
        where: Source of the weights, for messages.
        tensors: The weights.
        prefixes: The start of a key, and what replaces it: a part and a name, as in ``{"lm_head.": "llm.lm_head."}``.
            The longest one applies.
        unused: Regular expression of keys that the model does not use. Buffers that are computed are always left out.

    Raises:
        CheckpointError: Keys do not belong to any part, or the weights are quantized.
    """
    if quantized := [key for key in tensors if QUANTIZED.search(key)]:
        raise CheckpointError(
            f"{where} contains quantized weights: {few(quantized)}; use the checkpoint that is not quantized, and "
            "quantize when loading with quant=nf4 or quant=int8"
        )
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    unexpected = []
    for key, value in tensors.items():
        prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
        if BUFFERS.search(key) or re.match(unused, key):
            continue
        if prefix is None:
            unexpected.append(key)
            continue
        part, _, name = (prefixes[prefix] + key.removeprefix(prefix)).partition(".")
        parts[part][name] = value
    if unexpected:
        raise CheckpointError(f"{where} contains weights that do not belong to any part: {few(unexpected)}")
    return parts


def joined(parts: Mapping[str, Mapping[str, Tensor]], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of all parts under the keys of a layout: the inverse of ``split``.

    Args:
        parts: The weights of each part, by the names in its module.
        prefixes: As for ``split``.

    Raises:
        CheckpointError: The layout has no key for a weight.
    """
    found = {}
    for part, weights in parts.items():
        for name, value in weights.items():
            key = f"{part}.{name}"
            fitting = [(start, target) for start, target in prefixes.items() if key.startswith(target)]
            if not fitting:
                raise CheckpointError(f"the layout has no place for {name!r} of the {part}")
            start, target = max(fitting, key=lambda pair: len(pair[1]))
            found[start + key.removeprefix(target)] = value
    return found
