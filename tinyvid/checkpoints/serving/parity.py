"""Compare a model with its export: prompts, pixels, logits and replies of both, for the same clips."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving.writing import LAYOUTS
from tinyvid.errors import CheckpointError
from tinyvid.generation.decode import Decoding, generate
from tinyvid.models.weights import without_bars
from tinyvid.processing.batch import Batch
from tinyvid.text.frame_text import clock, short_time
from tinyvid.types import ImageSpec, Sample
from tinyvid.video.pixels import to_pixels

LAST = 64  # positions whose logits are compared
UNCOMPARED = "\nPrompts and pixels were not compared: the processor needs a package that is not installed (num2words)."
MAX_LEVELS = 2.0  # mean difference of pixels; libraries round the same resizing differently, by less than one level


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of one clip.

    Attributes:
        clip: Its name.
        frames: Number of frames.
        tokens: Length of the prompt.
        logits: Largest difference of logits, from the same pixels.
        prompt: Whether processor and chat template of the export write the prompt of tinyvid; ``None`` if a package
            that they need is not installed.
        pixels: Mean difference of the pixels of the export's image processor, in levels of 255.
        reply: Reply of tinyvid.
        exported: Reply of the export, from the same pixels.
    """

    clip: str
    frames: int
    tokens: int
    logits: float
    prompt: bool | None
    pixels: float | None
    reply: str
    exported: str


def compare(loaded: Loaded, folder: Path, name: str, samples: Sequence[Sample], *, reply_tokens: int) -> list[Parity]:
    """Ask a model and its export the same questions, in float32.

    Args:
        loaded: The model; it is cast to float32.
        folder: Its export.
        name: The layout of the export.
        samples: Questions about one video each.
        reply_tokens: Longest reply.

    Raises:
        CheckpointError: transformers does not load all weights.
        VideoError: A video cannot be read.
        DataError: A prompt does not fit into the LLM's context.
    """
    import transformers

    layout = LAYOUTS[name]
    loaded.model.float().eval()
    with without_bars():
        exported, report = getattr(transformers, layout.ARCHITECTURE).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    faults = {key: sorted(map(str, keys)) for key, keys in report.items() if keys}
    if faults:
        raise CheckpointError(f"transformers does not load all weights of the export: {faults!r:.400}")
    exported = exported.to(loaded.model.device).eval()
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError:  # SmolVLM's needs num2words
        processor = None
    return [_compared(loaded, exported, processor, layout, sample, reply_tokens) for sample in samples]


def fault(found: Sequence[Parity], tolerance: float) -> str:
    """Return why an export differs from its model; empty if it does not."""
    for each in found:
        if not each.logits <= tolerance:
            return f"clip {each.clip!r}: logits differ by {each.logits:.3g}, more than tolerance={tolerance:g}"
        if each.prompt is False:
            return f"clip {each.clip!r}: processor and chat template write another prompt"
        if each.pixels is not None and not each.pixels <= MAX_LEVELS:
            return f"clip {each.clip!r}: the image processor differs by {each.pixels:.1f} of 255 levels"
    return ""


def write_report(folder: Path, found: Sequence[Parity], notes: Sequence[str], tolerance: float) -> None:
    """Write ``parity.json`` and ``parity.md``."""
    largest = max(each.logits for each in found)
    content = {"tolerance": tolerance, "largest": largest, "clips": [*map(asdict, found)], "notes": [*notes]}
    (folder / "parity.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    words = {True: "equal", False: "different", None: "not compared"}
    lines = [
        "# Comparison with tinyvid\n",
        f"Both models computed in float32, from the same pixels. The largest difference of logits is {largest:.3g}, at",
        f"the last {LAST} positions; the tolerance is {tolerance:g}.\n",
        "| clip | frames | tokens | logits | prompt | pixels of its processor (levels of 255, mean) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_cell(each.clip)} | {each.frames} | {each.tokens} | {each.logits:.3g} | {words[each.prompt]} | "
            f"{'not compared' if each.pixels is None else f'{each.pixels:.2f}'} |"
            for each in found
        ),
        *([UNCOMPARED] if any(each.prompt is None for each in found) else []),
        "\n| clip | reply of tinyvid | reply of the export |",
        "|---|---|---|",
        *(f"| {_cell(each.clip)} | {_cell(each.reply)} | {_cell(each.exported)} |" for each in found),
        "\n## What servers do differently\n",
        *(f"- {note}" for note in notes),
    ]
    (folder / "parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


@torch.inference_mode()
def _compared(loaded: Loaded, exported: Any, processor: Any, layout: Any, sample: Sample, reply_tokens: int) -> Parity:
    plan = loaded.processor.plan(sample, reserve=reply_tokens)
    frames = np.concatenate([piece.frames for piece in plan.clips[0].pieces(plan.indices[0])])  # (T, H, W, 3)
    pixels = to_pixels(frames, loaded.processor.image)
    example = loaded.processor(sample, reserve=reply_tokens)
    example = replace(example, videos=(replace(example.videos[0], pixels=pixels, lazy=None),))
    batch = loaded.processor.collate([example], padding_side="left").to(loaded.model.device)
    embeddings, batch = loaded.model.fill(batch, padding_side="left")
    ours = loaded.model.llm(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=LAST
    ).logits
    config = exported.config
    placeholder = getattr(config, f"{layout.UNIT}_token_id", None)
    ids = batch.input_ids.masked_fill(batch.video_mask, config.image_token_id if placeholder is None else placeholder)
    inputs = {"input_ids": ids, "attention_mask": batch.attention_mask.long(), **layout.inputs(pixels.to(ids.device))}
    theirs = exported(**inputs, use_cache=False, logits_to_keep=LAST).logits[..., : ours.shape[-1]]
    new = exported.generate(**inputs, max_new_tokens=reply_tokens)[0, ids.shape[1] :]
    prompt, difference = None, None
    if processor is not None:
        media = layout.media(frames, batch.videos[0].times, plan.plans[0].duration)
        images = _images(loaded, batch) if layout.UNIT == "image" else [{"type": "video"}]
        made = _processed(processor, [*images, {"type": "text", "text": sample.messages[-1].text}], media)
        prompt = torch.equal(made["input_ids"].to(ids.device), ids)
        difference = _levels(layout.pixels(made).cpu(), pixels, loaded.processor.image)
    reply = generate(loaded.model, loaded.processor, batch, Decoding(reply_tokens))[0]
    return Parity(
        clip=sample.id,
        frames=len(frames),
        tokens=ids.shape[1],
        logits=float((ours - theirs).abs().max()),
        prompt=prompt,
        pixels=difference,
        reply=loaded.processor.reply(reply),
        exported=loaded.processor.reply(new),
    )


def _levels(theirs: torch.Tensor, ours: torch.Tensor, image: ImageSpec) -> float:
    """Return the mean difference of pixels (T, 3, S, S) in levels of 255.

    Where the margin of a crop is odd, libraries round it differently, so cropped images may be one pixel apart.
    """
    scale = torch.tensor(image.std).view(3, 1, 1) * 255
    if image.resize != "crop":
        return float(((theirs - ours).abs() * scale).mean())
    inner = ours[..., 1:-1, 1:-1]
    rows, columns = inner.shape[-2:]
    shifted = (theirs[..., y : y + rows, x : x + columns] for y in range(3) for x in range(3))
    return min(float(((each - inner).abs() * scale).mean()) for each in shifted)


def _processed(processor: Any, content: list[dict[str, Any]], media: dict[str, Any]) -> Any:
    """Return what the export's processor makes of a message."""
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    return processor(text=text, **media, add_special_tokens=not (bos and text.startswith(bos)), return_tensors="pt")


def _images(loaded: Loaded, batch: Batch) -> list[dict[str, Any]]:
    """Return the frames of a video as items of a message, with what stands next to them."""
    video, moments = batch.videos[0], loaded.processor.template.moments
    return [
        {
            "type": "image",
            "time": short_time(second),
            "clock": clock(second),
            "seconds": f"{second:.1f}",
            "at": moments.time(second, video),
        }
        for second in video.times
    ]
