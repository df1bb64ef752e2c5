"""From a configuration to a model and its Processor: the only place where parts meet."""

import inspect
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvid.errors import ConfigError, suggest
from tinyvid.models.llms.loading import QUANTS, load_tokenizer
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.weights import building_on, load_strict, read_tensors
from tinyvid.processing.processor import Processor
from tinyvid.protocols import Connector, LanguageModel, VisionTower
from tinyvid.registry import (
    CONNECTORS,
    LLMS,
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
    for registry in (LLMS, VISION_TOWERS, CONNECTORS, TEXT_DECODERS, SAMPLERS, TEMPLATES, VIDEO_READERS)
}
OPTIONAL = (TEXT_DECODERS.kind,)  # groups that only some models have
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the component groups of ``config``, every option checked and filled in, nothing loaded.

    Raises:
        ConfigError: A group is absent, or an option is unknown, missing, mistyped or out of range.
    """
    checked = {}
    for kind, registry in REGISTRIES.items():
        group = config.get(kind)
        if group is None and kind in OPTIONAL:
            continue
        options = registry.check(group, key=kind)
        assert group is not None  # or check() would have raised
        checked[kind] = {"name": str(group["name"]), **options}
    check_text_decoder(checked["connector"], checked.get("text_decoder"))
    return checked


def build(
    groups: Mapping[str, Mapping[str, Any]], *, device: str = "auto", dtype: str = "auto", quant: str = "none"
) -> tuple[VideoLLM, Processor]:
    """Build the model and the Processor that component groups describe.

    Args:
        groups: As ``check`` returns them.
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu`` or ``auto`` for the best there is; ``meta`` for a model of
            shapes alone, of which no weight is read.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` for what the device runs best.
        quant: Weights of the LLM: ``none``, ``nf4`` (4 bits) or ``int8``.

    Raises:
        ConfigError: ``device``, ``dtype`` or ``quant`` is wrong; no weight was loaded.
        CheckpointError: A part's weights cannot be loaded.
    """
    with building_on(device):
        return assemble(groups, *load_parts(groups, device=device, dtype=dtype, quant=quant))


def load_parts(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    device: str,
    dtype: str,
    quant: str,
    connector_weights: Path | None = None,
) -> tuple[LanguageModel, VisionTower, Connector]:
    """Load the LLM and the vision tower, and put a connector between them, new or from a file; see ``build``."""
    device, quant = resolve_device(device), resolve_quant(quant)
    torch_dtype = resolve_dtype(dtype, device)
    vision_tower = VISION_TOWERS.build(groups["vision_tower"], dtype=torch_dtype)
    llm = LLMS.build(groups["llm"], dtype=torch_dtype, quant=quant, device=device)
    tensors = None if connector_weights is None else read_tensors(connector_weights)
    connector = make_connector(
        groups["connector"],
        text_decoder=groups.get("text_decoder"),
        features=vision_tower.features,
        llm_dim=llm.dim,
        tensors=tensors,
        where=connector_weights,
    )
    return llm, vision_tower.to(device), connector.to(device, torch_dtype)


def make_connector(
    group: Mapping[str, Any],
    *,
    features: FeatureSpec,
    llm_dim: int,
    text_decoder: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    where: object = None,
) -> Any:
    """Make a connector between a vision tower and an LLM: a new one, or one with the weights ``tensors``.

    ``where`` says in messages where the weights come from. Other arguments as for ``build_connector``.

    Raises:
        ConfigError: Its options do not fit each other, or it does not fit into memory.
        CheckpointError: Keys or shapes of ``tensors`` do not fit.
    """
    if tensors is not None:
        with building_on("meta"):  # the sizes that a stranger states are compared before they take memory
            empty = build_connector(group, features=features, llm_dim=llm_dim, text_decoder=text_decoder)
            load_strict(empty, tensors, part="connector", where=where)
    try:
        connector = build_connector(group, features=features, llm_dim=llm_dim, text_decoder=text_decoder)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ConfigError(f"connector '{group['name']}' cannot be built with {dict(group)}: {reason}") from error
    if tensors is not None:
        load_strict(connector, tensors, part="connector", where=where)
    elif text_decoder is not None and text_decoder.get("path", "") is None:
        logger.warning(
            "text_decoder '%s' starts from random weights; train it (recipe.text_decoder.train=full), or give "
            "text_decoder.path",
            text_decoder["name"],
        )
    return connector


def takes_text_decoder(connector: str) -> bool:
    """Return whether the connector of this name reads the question with a text decoder."""
    return "text_decoder" in inspect.signature(CONNECTORS.get(connector)).parameters


def build_connector(
    group: Mapping[str, Any], *, features: FeatureSpec, llm_dim: int, text_decoder: Mapping[str, Any] | None = None
) -> Any:
    """Build a connector, and the text decoder inside it if it takes one, from their names and options.

    Raises:
        ConfigError: Options are wrong, or a text decoder is absent, or given to a connector that takes none.
    """
    check_text_decoder(group, text_decoder)
    if text_decoder is None:
        return CONNECTORS.build(group, features=features, llm_dim=llm_dim)
    decoder = TEXT_DECODERS.build(text_decoder, features=features, llm_dim=llm_dim)
    return CONNECTORS.build(group, features=features, llm_dim=llm_dim, text_decoder=decoder)


def check_text_decoder(connector: Mapping[str, Any], text_decoder: Mapping[str, Any] | None) -> None:
    """Raise ``ConfigError`` when a connector lacks the text decoder that it takes, or is given one that it does not."""
    name, takes = connector["name"], takes_text_decoder(connector["name"])
    if takes and text_decoder is None:
        raise ConfigError(
            f"connector '{name}' reads the question with a text decoder; choose one with text_decoder=NAME. "
            f"{suggest('', TEXT_DECODERS.names())}"
        )
    if text_decoder is not None and not takes:
        raise ConfigError(
            f"connector '{name}' takes no text decoder; leave text_decoder out, or use connector=llamavid"
        )


def assemble(
    groups: Mapping[str, Mapping[str, Any]], llm: LanguageModel, vision_tower: VisionTower, connector: Connector
) -> tuple[VideoLLM, Processor]:
    """Join loaded parts, and make the Processor that fits them."""
    model = VideoLLM(llm.model, vision_tower, connector).eval()
    processor = Processor(
        tokenizer=llm.tokenizer,
        template=TEMPLATES.build(groups["template"]),
        sampler=SAMPLERS.build(groups["sampler"]),
        reader=VIDEO_READERS.build(groups["video_reader"]),
        image=vision_tower.image,
        tokens=connector.tokens,
        max_length=llm.max_length,
        questions=_question_reader(groups, llm, connector),
    )
    return model, processor


def _question_reader(groups: Mapping[str, Any], llm: LanguageModel, connector: Connector) -> QuestionReader | None:
    """Return what turns questions into the tokens of the connector's text decoder; ``None`` if it has none."""
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
    """Return the device to use: what was asked for, or for ``auto`` the first of CUDA, MPS, CPU that is there.

    Raises:
        ConfigError: The device is unknown, or not on this machine.
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
            f"device={device!r} is asked for, but torch sees {count} {kind} devices here; "
            "use device=auto or device=cpu, or install a torch build and driver for it"
        )
    return device


def resolve_quant(quant: str) -> str:
    """Return ``quant`` if it is a way to store the LLM's weights.

    Raises:
        ConfigError: It is not.
    """
    if quant not in QUANTS:
        raise ConfigError(f"quant={quant!r} is unknown. {suggest(quant, QUANTS)}")
    return quant


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype of a name; ``auto`` is float32 on the CPU, bfloat16 on CUDA, float16 on MPS.

    Raises:
        ConfigError: The name is unknown.
    """
    if dtype == "auto":
        return {"cuda": torch.bfloat16, "mps": torch.float16}.get(torch.device(device).type, torch.float32)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is unknown. {suggest(str(dtype), ['auto', *DTYPES])}")
    return DTYPES[dtype]
