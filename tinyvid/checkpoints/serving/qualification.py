"""Which compositions a layout can hold. Every refusal names the part and the option that would qualify."""

from typing import Any

import torch

from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import ConfigError
from tinyvid.registry import MOTIONS, REDUCERS

# Settings with which a causal LM changes its logits after the head, which no layout does.
_SCALED = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}


def refuse_unqualified(loaded: Loaded, name: str, layout: Any) -> None:
    """Check that a layout has all parts of a model.

    Args:
        loaded: The model, with its adapters merged.
        name: The layout, for messages.
        layout: Its module.

    Raises:
        ConfigError: A part, or an option of it, has no place in the layout.
    """
    if REDUCERS.kind in loaded.groups:
        raise ConfigError(
            f"to={name}: reducer '{loaded.groups[REDUCERS.kind]['name']}' has no place in this layout; export a model "
            "without a reducer, which reads all patches"
        )
    if MOTIONS.kind in loaded.groups:
        raise ConfigError(
            f"to={name}: motion '{loaded.groups[MOTIONS.kind]['name']}' has no place in this layout; export without "
            "to=, or train a model with motion=null"
        )
    for part, known in layout.PARTS.items():
        group = loaded.groups[part]
        if group["name"] not in known:
            choices = " or ".join(f"{part}={each}" for each in known)
            raise ConfigError(f"to={name}: {part} '{group['name']}' has no place in this layout; it needs {choices}")
        for option, value in known[group["name"]].items():
            if group[option] != value:
                raise ConfigError(
                    f"to={name}: {part}.{option}={group[option]!r} has no place in this layout; it needs "
                    f"{part}.{option}={value!r}"
                )
    for option, known in layout.TEMPLATE.items():
        if loaded.groups["template"].get(option) not in known:
            raise ConfigError(
                f"to={name}: template.{option}={loaded.groups['template'].get(option)!r} is not what the processor of "
                f"this layout writes, {known[0]!r}; train with that template, or use to=llava, which takes any"
            )
    _refuse_llm(loaded.model.llm, name, layout.LLMS)
    _refuse_frames(loaded, name, layout.RESIZED_TWICE)


def _refuse_llm(llm: Any, name: str, known: tuple[str, ...]) -> None:
    kind = llm.config.model_type
    others = [key for key in llm.state_dict() if not key.startswith("model.") and key != "lm_head.weight"]
    if (known and kind not in known) or others:
        choices = " or ".join(known) or "a model of the design of Llama and Qwen"
        reason = f" ({others[0]})" if others else ""
        raise ConfigError(f"to={name}: an LLM of type '{kind}'{reason} has no place in this layout; it needs {choices}")
    for key, neutral in _SCALED.items():
        value = getattr(llm.config, key, neutral)
        if value not in (None, neutral):
            raise ConfigError(
                f"to={name}: the LLM changes its logits ({key}={value!r}), which this layout does not; use an LLM "
                "without it, such as Qwen2.5"
            )
    rows, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    if llm.config.tie_word_embeddings and not torch.equal(rows, head):
        raise ConfigError(
            f"to={name}: the head of the LLM is tied to its embeddings, but has other weights since its training, so "
            "the layout would need an untied head; export without to=, or train without adapters of the head"
        )


def _refuse_frames(loaded: Loaded, name: str, resized_twice: bool) -> None:
    image = loaded.model.vision_tower.image
    if image.resize == "pad":
        raise ConfigError(
            f"to={name}: vision_tower.resize='pad' has no place in this layout; it needs vision_tower.resize='stretch'"
        )
    if image.longest_edge is not None and not resized_twice:
        raise ConfigError(f"to={name}: frames that are resized twice have no place in this layout; use to=smolvlm")
