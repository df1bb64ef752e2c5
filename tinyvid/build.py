"""Build a model and its Processor from a configuration. Parts are joined here and nowhere else."""

import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tinyvid.errors import ConfigError, suggest
from tinyvid.models.llms.loading import QUANTS, check_vocabulary, load_tokenizer
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.weights import building_on, load_strict, read_tensors
from tinyvid.processing.processor import Processor
from tinyvid.protocols import Connector, LanguageModel, Motion, TokenizerStrings, UsesTower, VisionTower
from tinyvid.registry import (
    CONNECTORS,
    LLMS,
    MOTIONS,
    REDUCERS,
    SAMPLERS,
    TEMPLATES,
    TEXT_DECODERS,
    VIDEO_READERS,
    VISION_TOWERS,
    Registry,
)
from tinyvid.text.questions import QuestionReader
from tinyvid.types import FeatureSpec

logger = logging.getLogger(__name__)

REGISTRIES: dict[str, Registry] = {
    registry.kind: registry
    for registry in (
        *(LLMS, VISION_TOWERS, MOTIONS, CONNECTORS, REDUCERS, TEXT_DECODERS),
        *(SAMPLERS, TEMPLATES, VIDEO_READERS),
    )
}
OPTIONAL = (MOTIONS.kind, REDUCERS.kind, TEXT_DECODERS.kind)  # groups that only some models have
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the component groups of ``config`` with every option checked and defaults filled in. Nothing is loaded.

    Raises:
        ConfigError: A group is missing, or an option is unknown, missing, mistyped or out of range.
    """
    checked = {}
    for kind, registry in REGISTRIES.items():
        group = config.get(kind)
        if not group and kind in OPTIONAL:
            continue
        options = registry.check(group, key=kind)
        assert group is not None  # or check() would have raised
        checked[kind] = {"name": str(group["name"]), **options}
    check_text_decoder(checked["connector"], checked.get("text_decoder"))
    check_reducer(checked["connector"], checked.get("reducer"))
    return checked


def build(
    groups: Mapping[str, Mapping[str, Any]], *, device: str = "auto", dtype: str = "auto", quant: str = "none"
) -> tuple[VideoLLM, Processor, dict[str, dict[str, Any]]]:
    """Build the model and the Processor that component groups describe; the third is the groups to store.

    Args:
        groups: As ``check`` returns them.
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu``, or ``auto`` for the best available; ``meta`` builds shapes
            only and reads no weights.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the best dtype of the device.
        quant: Quantization of the LLM: ``none``, ``nf4`` (4 bits) or ``int8``.

    Raises:
        ConfigError: ``device``, ``dtype`` or ``quant`` is wrong. It is raised before any weights are loaded.
        CheckpointError: A part's weights cannot be loaded.
    """
    with building_on(device):
        parts = load_parts(groups, device=device, dtype=dtype, quant=quant)
        groups = settled(groups, parts[0])
        return *assemble(groups, *parts), groups


def settled(groups: Mapping[str, Mapping[str, Any]], llm: LanguageModel) -> dict[str, dict[str, Any]]:
    """Return the groups with the strings of the tokenizer's chat template instead of ``template=tokenizer``.

    Raises:
        ConfigError: The chat template cannot be rendered or reproduced.
    """
    result = {kind: dict(group) for kind, group in groups.items()}
    template = TEMPLATES.build(groups["template"])
    if isinstance(template, TokenizerStrings):
        result["template"] = template.settle(llm.tokenizer)
    return result


def load_parts(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    device: str,
    dtype: str,
    quant: str,
    connector_weights: Path | None = None,
) -> tuple[LanguageModel, VisionTower, Connector, Motion | None]:
    """Load the LLM and the vision tower, and make a connector for them, new or from a file; see ``build``."""
    device, quant = resolve_device(device), resolve_quant(quant)
    torch_dtype = resolve_dtype(dtype, device)
    vision_tower = VISION_TOWERS.build(groups["vision_tower"], dtype=torch_dtype)
    llm = LLMS.build(groups["llm"], dtype=torch_dtype, quant=quant, device=device)
    tensors = None if connector_weights is None else read_tensors(connector_weights)
    motion = build_motion(groups.get("motion"), vision_tower.features)
    connector = make_connector(
        groups["connector"],
        text_decoder=groups.get("text_decoder"),
        reducer=groups.get("reducer"),
        features=vision_tower.features if motion is None else motion.features,
        llm_dim=llm.dim,
        tensors=tensors,
        where=connector_weights,
    )
    return llm, vision_tower.to(device), connector.to(device, torch_dtype), motion and motion.to(device)


def build_motion(group: Mapping[str, Any] | None, features: FeatureSpec) -> Any:
    """Build what appends motion to the ``features`` of a vision tower; ``None`` without a group.

    Raises:
        ConfigError: Options are wrong, or do not suit the vision tower.
    """
    return None if group is None else MOTIONS.build(group, features=features)


def make_connector(
    group: Mapping[str, Any],
    *,
    features: FeatureSpec,
    llm_dim: int,
    text_decoder: Mapping[str, Any] | None = None,
    reducer: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    where: object = None,
) -> Any:
    """Make a connector between a vision tower and an LLM: a new one, or one with the weights ``tensors``.

    ``where`` is the source of the weights, for messages. The other arguments are those of ``build_connector``.

    Raises:
        ConfigError: The options contradict each other, or the connector does not fit into memory.
        CheckpointError: Keys or shapes of ``tensors`` do not match.
    """
    inside = {"text_decoder": text_decoder, "reducer": reducer}
    if tensors is not None:
        with building_on("meta"):  # compare the sizes in an untrusted file before allocating memory
            empty = build_connector(group, features=features, llm_dim=llm_dim, **inside)
            load_strict(empty, tensors, part="connector", where=where)
    try:
        connector = build_connector(group, features=features, llm_dim=llm_dim, **inside)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ConfigError(f"connector '{group['name']}' cannot be built with {dict(group)}: {reason}") from error
    if tensors is not None:
        load_strict(connector, tensors, part="connector", where=where)
    elif text_decoder is not None and text_decoder.get("path", "") is None:
        logger.warning(
            "text_decoder '%s' starts from random weights; train it (recipe.text_decoder.train=full) or set "
            "text_decoder.path",
            text_decoder["name"],
        )
    return connector


def takes(connector: str, part: str) -> bool:
    """Return whether the connector with this name contains a ``text_decoder`` or a ``reducer``."""
    return part in inspect.signature(CONNECTORS.get(connector)).parameters


def is_weightless(reducer: str) -> bool:
    """Return whether the reducer with this name has no weights."""
    return bool(cast(Any, REDUCERS.get(reducer)).weightless)


def build_connector(
    group: Mapping[str, Any],
    *,
    features: FeatureSpec,
    llm_dim: int,
    text_decoder: Mapping[str, Any] | None = None,
    reducer: Mapping[str, Any] | None = None,
) -> Any:
    """Build a connector, and the text decoder or reducer inside it, from their names and options.

    Raises:
        ConfigError: Options are wrong, the text decoder is missing, or the connector does not take one of them.
    """
    check_text_decoder(group, text_decoder)
    check_reducer(group, reducer)
    inside = {}
    if text_decoder is not None:
        inside["text_decoder"] = TEXT_DECODERS.build(text_decoder, features=features, llm_dim=llm_dim)
    if reducer is not None:
        inside["reducer"] = partial(REDUCERS.build, reducer)
    return CONNECTORS.build(group, features=features, llm_dim=llm_dim, **inside)


def check_text_decoder(connector: Mapping[str, Any], text_decoder: Mapping[str, Any] | None) -> None:
    """Raise ``ConfigError`` if a connector lacks its text decoder, or is given one that it does not take."""
    name, needed = connector["name"], takes(connector["name"], "text_decoder")
    if needed and text_decoder is None:
        raise ConfigError(
            f"connector '{name}' reads the question with a text decoder; choose one with text_decoder=NAME. "
            f"{suggest('', TEXT_DECODERS.names())}"
        )
    if text_decoder is not None and not needed:
        raise ConfigError(
            f"connector '{name}' does not take a text decoder; remove text_decoder, or use connector=llamavid"
        )


def check_reducer(connector: Mapping[str, Any], reducer: Mapping[str, Any] | None) -> None:
    """Raise ``ConfigError`` if a connector is given a reducer that it does not take."""
    if reducer is not None and not takes(connector["name"], "reducer"):
        raise ConfigError(
            f"reducer '{reducer['name']}' returns tokens that do not form full frames, but connector "
            f"'{connector['name']}' needs full frames; remove reducer, or use connector=mlp or "
            "connector=pixel_shuffle, for which the model must be trained"
        )


def assemble(
    groups: Mapping[str, Mapping[str, Any]],
    llm: LanguageModel,
    vision_tower: VisionTower,
    connector: Connector,
    motion: Motion | None = None,
) -> tuple[VideoLLM, Processor]:
    """Join loaded parts into a model, and make its Processor.

    Raises:
        CheckpointError: The tokenizer does not belong to the LLM, or what a reducer needs of the tower cannot be read.
        ConfigError: The tokenizer lacks a token of the template, or parts do not fit together.
    """
    template = TEMPLATES.build(groups["template"])
    check_vocabulary(llm, template.control_tokens)
    if isinstance(connector.reducer, UsesTower):
        connector.reducer.attach(vision_tower, groups["vision_tower"])
    model = VideoLLM(llm.model, vision_tower, connector, motion).eval()
    tokens = connector.tokens
    if motion is not None and not motion.causal:
        tokens = replace(tokens, in_pieces=False)
    processor = Processor(
        tokenizer=llm.tokenizer,
        template=template,
        sampler=SAMPLERS.build(groups["sampler"]),
        reader=VIDEO_READERS.build(groups["video_reader"]),
        image=vision_tower.image,
        tokens=tokens,
        max_length=llm.max_length,
        questions=_question_reader(groups, llm, connector),
    )
    return model, processor


def _question_reader(groups: Mapping[str, Any], llm: LanguageModel, connector: Connector) -> QuestionReader | None:
    """Return the tokenization of questions for the connector's text decoder; ``None`` without a text decoder."""
    decoder, choices = connector.text_decoder, connector.tokens.reads_choices
    if decoder is None:
        return None
    if decoder.reads_embeddings:
        return QuestionReader(llm.tokenizer, max_length=decoder.max_length, special_tokens=False, choices=choices)
    path = groups["text_decoder"].get("tokenizer")
    if path is None:
        raise ConfigError(
            f"text_decoder '{groups['text_decoder']['name']}' needs text_decoder.tokenizer, a directory or hub id"
        )
    return QuestionReader(
        load_tokenizer(path),
        max_length=decoder.max_length,
        special_tokens=True,
        choices=choices,
        vocab_size=decoder.vocab_size,
    )


def resolve_device(device: str) -> str:
    """Return the device to use; ``auto`` selects the first available one of CUDA, MPS and CPU.

    Raises:
        ConfigError: The device is unknown or not available.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # one GPU per process
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device={device!r} is unknown. {suggest(str(device), ['auto', 'cuda', 'mps', 'cpu'])}"
        ) from error
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1, "meta": 1}.get(
        kind, 0
    )
    if (torch.device(device).index or 0) >= count:
        raise ConfigError(
            f"device={device!r} is not available: torch finds {count} {kind} devices; "
            "use device=auto or device=cpu, or install a torch build and a driver that support it"
        )
    return device


def resolve_quant(quant: str) -> str:
    """Return ``quant`` after checking that it is supported.

    Raises:
        ConfigError: It is unknown.
    """
    if quant not in QUANTS:
        raise ConfigError(f"quant={quant!r} is unknown. {suggest(quant, QUANTS)}")
    return quant


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype for a name; ``auto`` is float32 on the CPU, bfloat16 on CUDA, and float16 on MPS.

    Raises:
        ConfigError: The name is unknown.
    """
    if dtype == "auto":
        return {"cuda": torch.bfloat16, "mps": torch.float16}.get(torch.device(device).type, torch.float32)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is unknown. {suggest(str(dtype), ['auto', *DTYPES])}")
    return DTYPES[dtype]
