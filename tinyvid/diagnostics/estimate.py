"""Estimate parameters, tokens and GPU memory of a training step from a configuration, without weights.

``tinyvid.diagnostics.memory`` counts the bytes. A GB is 10^9 bytes. The estimate is for one process on one GPU, and
nothing is measured.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from tinyvid.assistant import Assistant
from tinyvid.build import OPTIONAL, check, resolve_dtype, resolve_quant
from tinyvid.config import CHANGEABLE, CONF_DIR
from tinyvid.diagnostics.memory import activation_bytes, copied_bytes, logits_bytes, optimizer_bytes, weight_bytes
from tinyvid.diagnostics.skeleton import build_skeleton
from tinyvid.errors import ConfigError
from tinyvid.models.adapters import base
from tinyvid.models.video_llm import PARTS, VideoLLM
from tinyvid.registry import SAMPLERS, check_options
from tinyvid.training import trainable
from tinyvid.training.options import read_recipe
from tinyvid.types import TokenBudget, VideoMeta

CARD = "cuda"  # the device for which dtype=auto is resolved, on any machine
# CUDA context, cuBLAS workspaces and fragmentation: between 0.5 and 1 GB on current GPUs.
OVERHEAD = 750_000_000
Changes = dict[str, Any]  # settings by dotted key, as on the command line


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """Number of frames and tokens of one sample.

    Attributes:
        frames: T, frames that the sampler selects.
        video: Video tokens.
        text: Tokens of the conversation.
        labels: Tokens of the conversation that have a label.
        limit: ``llm.max_length``.
    """

    frames: int
    video: int
    text: int
    labels: int
    limit: int

    @property
    def length(self) -> int:
        """L, the length of the sequence in tokens."""
        return self.video + self.text


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the GPU during a step.

    Attributes:
        weights: Weights of each part, in their dtype during training.
        gradients: Gradients of the trained weights.
        optimizer: State of the optimizer.
        copies: Copies of weights in the dtype of the computation.
        activations: Activations for the backward pass; an estimate.
        logits: Logits at the label positions, with their gradients.
        step: Temporary memory of the optimizer step, after activations, copies and logits are freed.
        overhead: A constant.
    """

    weights: dict[str, int]
    gradients: int
    optimizer: int
    copies: int
    activations: int
    logits: int
    step: int
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        """The larger of two peaks: in the backward pass and in the optimizer step."""
        lasting = sum(self.weights.values()) + self.gradients + self.optimizer + self.overhead
        return lasting + max(self.copies + self.activations + self.logits, self.step)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated requirements of a run.

    Attributes:
        parts: One report per part, as training prints them.
        tokens: Tokens of one sample.
        memory: Memory of a step with one batch.
        batch_size: Samples per batch.
        activations_checkpointed: Bytes of activations with ``recipe.gradient_checkpointing=true``.
        activations_kept: Bytes of activations without it.
        logits_full: Bytes of the logits if they were computed for the whole sequence.
    """

    parts: list[trainable.PartReport]
    tokens: TokenPlan
    memory: Memory
    batch_size: int
    activations_checkpointed: int
    activations_kept: int
    logits_full: int


def estimate(settings: Mapping[str, Any]) -> Estimate:
    """Estimate a run from its composed configuration.

    Args:
        settings: The configuration of training, with ``duration``, ``fps``, ``text_tokens`` and ``label_tokens`` of a
            sample. With ``ckpt``, the groups of the model contain changes to the checkpoint; ``None`` changes nothing.

    Raises:
        ConfigError: ``settings`` are invalid, as they would be in training.
        CheckpointError: The configuration of a part cannot be found.
    """
    options, _ = read_recipe(settings["recipe"])
    quant, dtype = resolve_quant(settings["quant"]), resolve_dtype(settings["dtype"], CARD)
    model, groups, reports = _adapted(_structure(settings))
    tokens = plan_tokens(groups, settings, model.connector.tokens.budget)
    trained = [p for p in model.parameters() if p.requires_grad]
    size, frames = options.batch_size, tokens.frames
    kept, checkpointed = (
        activation_bytes(model, batch_size=size, length=tokens.length, frames=frames, dtype=dtype, checkpointing=on)
        for on in (False, True)
    )
    vocabulary = base(model.llm).get_output_embeddings().weight.shape[0]
    memory = Memory(
        weights={part: weight_bytes(model.get_submodule(part), quant if part == "llm" else "none") for part in PARTS},
        gradients=sum(p.nbytes for p in trained),
        optimizer=optimizer_bytes((p.numel() for p in trained), options.optimizer),
        copies=copied_bytes(model, dtype, quant),
        activations=checkpointed if options.gradient_checkpointing else kept,
        logits=logits_bytes(size * tokens.labels, vocabulary),
        step=sum(p.nbytes for p in trained) if options.optimizer == "adamw" else 0,
    )
    return Estimate(
        parts=reports,
        tokens=tokens,
        batch_size=size,
        memory=memory,
        activations_kept=kept,
        activations_checkpointed=checkpointed,
        logits_full=logits_bytes(size * tokens.length, vocabulary),
    )


def plan_tokens(groups: Mapping[str, Any], settings: Mapping[str, Any], budget: TokenBudget) -> TokenPlan:
    """Count the frames and tokens of a sample with one clip of ``duration`` seconds at ``fps`` frames per second."""
    duration, fps = float(settings["duration"]), float(settings["fps"])
    num_frames = max(1, round(duration * fps))
    meta = VideoMeta(num_frames=num_frames, fps=fps, duration=duration, width=1280, height=720)
    sampler = SAMPLERS.build(groups["sampler"])
    frames = len(sampler(meta, _restless).indices if sampler.looks else sampler(meta))
    return TokenPlan(
        frames=frames,
        video=budget.bound(frames),
        text=settings["text_tokens"],
        labels=settings["label_tokens"],
        limit=groups["llm"]["max_length"],
    )


def _restless(indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield frames that always change, for which samplers that look at frames select the maximum number."""
    return (np.full((1, 1, 3), 255 * (place % 2), np.uint8) for place in range(len(indices)))


@dataclass(frozen=True, slots=True)
class Advice:
    """Changes that make a run fit into GPU memory.

    Attributes:
        fits: Whether the run fits with ``changes``.
        changes: The smallest set of settings to change, possibly empty; if the run never fits, all settings that help.
        total: Bytes that the run needs with ``changes``.
    """

    fits: bool
    changes: Changes
    total: int


def advise(settings: Mapping[str, Any], card: int) -> Advice:
    """Find the smallest set of changes with which a run fits into ``card`` bytes.

    Changes that do not affect the result are tried first, then lighter training of the LLM, then fewer tokens, and
    finally a smaller LLM.
    """
    now = estimate(settings).memory.total
    if now <= card:
        return Advice(True, {}, now)
    candidates: list[Changes] = []
    smaller = ([llm] for llm in _smaller_llms(settings))
    for tier in (_harmless(settings), _lighter_training(settings), _shorter_sequences(settings), *smaller):
        candidates += tier
        everything = _joined(candidates)
        least = estimate(changed(settings, everything)).memory.total
        if least <= card:
            return _fewest(settings, candidates, card) or Advice(True, everything, least)
    return Advice(False, everything, least)


def _fewest(settings: Mapping[str, Any], candidates: list[Changes], card: int) -> Advice | None:
    """Return the first smallest combination that fits; a combination changes each setting at most once."""
    for count in range(1, len(candidates) + 1):
        for chosen in combinations(candidates, count):
            changes = _joined(chosen)
            if len(changes) < sum(map(len, chosen)):
                continue
            try:
                total = estimate(changed(settings, changes)).memory.total
            except ConfigError:  # such as nf4 with full training of the LLM
                continue
            if total <= card:
                return Advice(True, changes, total)
    return None


def _joined(chosen: Iterable[Changes]) -> Changes:
    return {key: value for changes in chosen for key, value in changes.items()}


def changed(settings: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Return settings with changes by dotted key; the value of ``llm`` is the name of a file in ``conf/llm``."""
    result = OmegaConf.create(dict(settings))
    for key, value in changes.items():
        is_option = key == "llm"
        OmegaConf.update(result, key, OmegaConf.load(CONF_DIR / "llm" / f"{value}.yaml") if is_option else value)
    plain: Any = OmegaConf.to_container(result)
    return plain


def _harmless(settings: Mapping[str, Any]) -> Iterator[Changes]:
    """Yield changes that save memory and hardly affect the trained model."""
    recipe = settings["recipe"]
    if not recipe["gradient_checkpointing"]:
        yield {"recipe.gradient_checkpointing": True}
    if recipe["batch_size"] > 1:
        yield {"recipe.batch_size": 1, "recipe.accumulate": recipe["accumulate"] * recipe["batch_size"]}
    if settings["dtype"] == "float32":
        yield {"dtype": "bfloat16"}
    if recipe["optimizer"] == "adamw":
        yield {"recipe.optimizer": "paged_adamw_8bit"}


def _lighter_training(settings: Mapping[str, Any]) -> Iterator[Changes]:
    """Yield changes that train the same LLM with less memory."""
    if settings["recipe"]["llm"]["train"] == "full":
        yield {"recipe.llm.train": "lora", "recipe.llm.from_layer": None}
    if settings["quant"] == "none":
        yield {"quant": "nf4"}


def _shorter_sequences(settings: Mapping[str, Any]) -> Iterator[Changes]:
    """Yield changes to fewer frames and fewer video tokens."""
    groups = _adapted(_structure(settings))[1]
    sampler, connector = groups["sampler"], groups["connector"]
    for key in ("num_frames", "max_frames"):
        if (sampler.get(key) or 0) > 8:
            yield {f"sampler.{key}": sampler[key] // 2}
    queries = connector.get("num_queries", 0) // 2
    if settings["ckpt"] is None and queries >= 64 and queries % connector.get("num_groups", 1) == 0:
        yield {"connector.num_queries": queries}


def _smaller_llms(settings: Mapping[str, Any]) -> Iterator[Changes]:
    """Yield changes to smaller LLMs of the same family, largest first."""
    if settings["ckpt"] is not None:
        return
    family = [f"Qwen/Qwen2.5-{size}" for size in ("3B", "1.5B", "0.5B")]
    path = settings["llm"]["path"]
    kind = "-Instruct" if path.endswith("-Instruct") else ""
    larger = path.removesuffix(kind)
    if larger in family:
        for smaller in family[family.index(larger) + 1 :]:
            yield {"llm": f"{smaller}{kind}".partition("/")[2].lower().replace(".", "_").replace("-", "_")}


def _structure(settings: Mapping[str, Any]) -> str:
    """Return the settings that determine shapes and trained weights, as JSON; a key of the cache."""
    kinds = ["llm", "vision_tower", "connector", "sampler", "template", "video_reader", "peft", "ckpt", "dtype"]
    kinds += [kind for kind in OPTIONAL if kind in settings]
    recipe = {
        key: settings["recipe"][key] for key in (*PARTS, trainable.TEXT_DECODER, "lr") if key in settings["recipe"]
    }
    quantized = settings["quant"] != "none"
    return json.dumps({**{kind: settings[kind] for kind in kinds}, "recipe": recipe, "quantized": quantized})


@lru_cache(maxsize=64)
def _adapted(structure: str) -> tuple[VideoLLM, dict[str, dict[str, Any]], list[trainable.PartReport]]:
    """Build a model without weights, and prepare it as training does; also return its groups and part reports."""
    settings = json.loads(structure)
    options, parts = read_recipe(settings["recipe"])
    peft = trainable.PeftOptions(**check_options(trainable.PeftOptions, settings["peft"], key="peft"))
    dtype = resolve_dtype(settings["dtype"], CARD)
    if settings["ckpt"] is None:
        groups = check(settings)
        model = build_skeleton(groups, dtype=dtype)
    else:
        name = str(dtype).removeprefix("torch.")
        choices: dict[str, Any] = {kind: settings.get(kind) for kind in (*CHANGEABLE, "llm")}
        choices = {kind: group for kind, group in choices.items() if group is not None}
        loaded = Assistant.from_pretrained(settings["ckpt"], device="meta", dtype=name, **choices).loaded
        model, groups = loaded.model, loaded.groups
    base(model.llm).is_quantized = settings["quantized"]  # as transformers sets it on a quantized LLM
    with torch.device("meta"):
        return model, groups, trainable.apply(model, parts, peft, lr=options.lr)
