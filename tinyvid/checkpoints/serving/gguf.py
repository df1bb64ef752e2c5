"""Write a model as two GGUF files, which llama.cpp and Ollama serve: the LLM, and vision tower with connector.

llama.cpp's name for the second file is mmproj. Keys and names of tensors are those that its converters write
(``conversion/`` of ggml-org/llama.cpp) and that its program for images reads (``tools/mtmd/clip.cpp``).
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving import chat_template, gguf_llm, gguf_vision
from tinyvid.checkpoints.serving.parity import LAST, Parity
from tinyvid.checkpoints.serving.qualification import refuse_unqualified
from tinyvid.checkpoints.serving.writing import differences
from tinyvid.errors import ConfigError
from tinyvid.generation.decode import Decoding, generate
from tinyvid.protocols import LanguageModel
from tinyvid.registry import LLMS
from tinyvid.types import Sample

NAME = "gguf"
LLM, VISION = "model.gguf", "mmproj.gguf"
MARKER = "<__media__>"  # what llama.cpp replaces by an image


def write(loaded: Loaded, folder: Path, *, dtypes: Mapping[str, torch.dtype]) -> list[str]:
    """Write a model as ``model.gguf`` and ``mmproj.gguf``.

    Args:
        loaded: The model, with its adapters merged.
        folder: An existing folder.
        dtypes: The data type of the matrices of each part; the connector has that of the vision tower.

    Returns:
        What llama.cpp does differently from tinyvid, in sentences.

    Raises:
        ConfigError: The package gguf is missing, or llama.cpp does not compute a part or does not have the tokenizer.
    """
    try:
        import gguf  # noqa: F401 - an optional dependency
    except ImportError as error:
        raise ConfigError(f"to={NAME} needs the package gguf: pip install 'tinyvid[gguf]'") from error
    projector = gguf_vision.projector_of(loaded.groups["connector"])
    twice = projector is gguf_vision.IDEFICS3
    needed = SimpleNamespace(PARTS=projector.parts, TEMPLATE={}, LLMS=gguf_llm.KINDS, RESIZED_TWICE=twice)
    refuse_unqualified(loaded, NAME, needed)
    _refuse_other_surroundings(loaded, projector)
    gguf_llm.write(loaded, folder / LLM, chat_template=_chat_template(loaded), dtype=dtypes["llm"])
    gguf_vision.write(loaded, folder / VISION, projector, dtype=dtypes["vision_tower"])
    return _notes(loaded, projector)


def compare(loaded: Loaded, folder: Path, samples: Sequence[Sample], *, reply_tokens: int) -> list[Parity]:
    """Ask the LLM and its GGUF file, read by transformers, the same questions without their videos, in float32.

    Args:
        loaded: The model; it is cast to float32.
        folder: Its export.
        samples: Questions.
        reply_tokens: Longest reply.

    Raises:
        CheckpointError: The file cannot be read.
        DataError: A prompt does not fit into the LLM's context.
    """
    loaded.model.float().eval()
    options = {"name": "auto", "path": str(folder / LLM), "max_length": loaded.groups["llm"]["max_length"]}
    again = LLMS.build(options, dtype=torch.float32, quant="none", device=str(loaded.model.device))
    return [_compared(loaded, again, sample, reply_tokens) for sample in samples]


@torch.inference_mode()
def _compared(loaded: Loaded, again: LanguageModel, sample: Sample, reply_tokens: int) -> Parity:
    model, processor, llm = loaded.model, loaded.processor, loaded.model.llm
    example = processor(Sample(sample.messages, id=sample.id), reserve=reply_tokens)
    batch = processor.collate([example], padding_side="left").to(model.device)
    ids, found = batch.input_ids, []
    try:
        for each in (llm, again.model):
            model.llm = each
            logits = each(input_ids=ids, use_cache=False, logits_to_keep=LAST).logits
            found.append((logits, processor.reply(generate(model, processor, batch, Decoding(reply_tokens))[0])))
    finally:
        model.llm = llm
    (ours, reply), (theirs, exported) = found
    text = processor.tokenizer.decode(ids[0])
    return Parity(
        clip=f"{sample.messages[-1].text} (without a video)",
        frames=0,
        tokens=ids.shape[1],
        logits=float((ours - theirs).abs().max()),
        prompt=again.tokenizer(text, add_special_tokens=False).input_ids == ids[0].tolist(),
        pixels=None,
        reply=reply,
        exported=exported,
    )


def _refuse_other_surroundings(loaded: Loaded, projector: gguf_vision.Projector) -> None:
    if projector is gguf_vision.IDEFICS3 and "ĊĊ" not in loaded.processor.tokenizer.get_vocab():
        raise ConfigError(
            f"to={NAME}: llama.cpp writes a token for two newlines before each frame of a model with this connector, "
            "but the tokenizer of the LLM has none; SmolLM2's has"
        )
    style = loaded.processor.template.frame.style
    text = f"{projector.before}{{video}}{projector.after}"
    if text not in style:
        raise ConfigError(
            f"to={NAME}: llama.cpp writes {text!r} for each frame of a model with this connector, but "
            f"template.frame={style!r} does not contain it; train with a template that does"
        )


def _chat_template(loaded: Loaded) -> str:
    """Return the template for messages of text, in which llama.cpp replaces markers by images."""
    template: Any = copy(loaded.processor.template)
    tokenizer = loaded.processor.tokenizer
    chat_template.refuse_unwritable(template, loaded.groups["template"]["name"])
    template.text_prefix = ""  # of questions without a video
    bos = chat_template.begins_with_bos(tokenizer)
    return chat_template.write(template, bos=bos, unit="video", texts={"image": "", "video": ""}, suffix="")


def _notes(loaded: Loaded, projector: gguf_vision.Projector) -> list[str]:
    """Return what llama.cpp does differently."""
    template: Any = loaded.processor.template
    frame = template.frame.style.replace(f"{projector.before}{{video}}{projector.after}", MARKER)
    size = loaded.model.vision_tower.image.size
    found = [
        f"Compared here: the LLM in {LLM}, read by transformers, on questions without a video. {VISION} was not run. "
        "The files are written for llama.cpp as of build 11739.",
        f"Each frame is an image of a message, whose text is that of the caller: {template.frame.heading!r} once, "
        f"{frame!r} for each frame, {template.video_suffix!r} behind them, then the question.",
        f"Pass frames that are already {size} x {size} pixels, resized as for tinyvid: llama.cpp pads others, or shows "
        "them as several tiles.",
        "llama.cpp approximates GELU, also where the model has the exact one.",
    ]
    if projector is gguf_vision.IDEFICS3:
        found.append("llama.cpp shows each frame twice to a model with this connector, as a tile and as a whole.")
    return [*found, *differences(loaded, SimpleNamespace(UNIT="video"))]
