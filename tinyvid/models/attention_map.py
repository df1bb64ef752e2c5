"""Compute the attention of the context token over the patches of each frame, and draw it as one PNG.

Only connectors with a context token (``llamavid``) support this. Frames are shown as the vision tower sees them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from tinyvid.errors import ConfigError, DataError
from tinyvid.models.video_llm import VideoLLM
from tinyvid.processing.processor import Processor
from tinyvid.types import ImageSpec, Sample

MAX_FRAMES = 64  # on one sheet; evenly spaced frames are drawn if there are more
CAPTION = 14  # pixels under a frame
MARGIN = 4  # pixels between frames


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """The attention of one question over one video.

    Attributes:
        question: The text of the user's turn.
        weights: float32 (T, rows, columns), one weight per patch; the weights of a frame sum to 1.
        frames: uint8 (T, S, S, 3), as the vision tower sees them.
        times: float (T,), seconds from the beginning of the clip.
    """

    question: str
    weights: np.ndarray
    frames: np.ndarray
    times: np.ndarray

    def save(self, path: str | Path, *, columns: int = 8, side: int = 224) -> list[int]:
        """Draw the map over its frames, and write a contact sheet as PNG, which replaces an existing file.

        Patches with low weights are darkened; the patch with the highest weight in each frame is unchanged. A row has
        ``columns`` frames of ``side`` pixels.

        Returns:
            Indices of the drawn frames: all, or 64 evenly spaced ones.

        Raises:
            DataError: The file cannot be written.
        """
        count = len(self.frames)
        drawn = sorted({round(i) for i in np.linspace(0, count - 1, min(count, MAX_FRAMES))})
        columns = min(columns, len(drawn))
        cell = (side + MARGIN, side + CAPTION + MARGIN)
        sheet = Image.new("RGB", (columns * cell[0] + MARGIN, math.ceil(len(drawn) / columns) * cell[1] + MARGIN))
        pen = ImageDraw.Draw(sheet)
        for place, number in enumerate(drawn):
            row, column = divmod(place, columns)
            corner = (MARGIN + column * cell[0], MARGIN + row * cell[1])
            sheet.paste(self._lit(number, side), corner)
            pen.text((corner[0], corner[1] + side), f"{self.times[number]:.1f} s  frame {number}", fill="white")
        try:
            sheet.save(path, format="PNG")
        except OSError as error:
            raise DataError(f"the attention map cannot be written to {str(path)!r}: {error}") from error
        return drawn

    def _lit(self, number: int, side: int) -> Image.Image:
        weights = self.weights[number]
        light = Image.fromarray(np.uint8(255 * weights / max(weights.max(), 1e-12)))
        frame = Image.fromarray(self.frames[number]).resize((side, side), Image.Resampling.BICUBIC)
        dark = Image.eval(frame, lambda value: value // 5)
        return Image.composite(frame, dark, light.resize((side, side), Image.Resampling.NEAREST))


@torch.inference_mode()
def attention_maps(model: VideoLLM, processor: Processor, sample: Sample) -> list[AttentionMap]:
    """Return the attention of each question of a sample: one map per video slot, in the order of the sequence.

    Raises:
        ConfigError: The connector has no context token, or the tower's patches do not form a rectangle.
        DataError: The sample has no video.
        VideoError: A video cannot be read.
    """
    attention = model.connector.attention
    if attention is None:
        raise ConfigError(
            "this connector does not read the question, so there is no attention map; use connector=llamavid"
        )
    grid = model.vision_tower.features.grid
    if grid is None:
        raise ConfigError(
            "the patches of this tower do not form a rectangle, so there is no attention map; use "
            "vision_tower.select=all if it is 'patch'"
        )
    layout = processor.plan(sample)
    if not layout.slots:
        raise DataError("this sample has no video, which an attention map needs; add one")
    batch = processor.collate([processor(sample)]).to(model.device)
    if any(video.lazy is not None for video in batch.videos):
        raise ConfigError("the video is too long to keep all frames in memory; select a part with start= and end=")
    if any(video.features is not None for video in batch.videos):
        raise ConfigError("the frames are not decoded because their features are cached; turn cache.features off")
    clips = [torch.cat([*pieces]) for pieces in model.pieces(batch)]
    maps = []
    for slot in batch.slots:
        pixels = batch.videos[slot.video].pixels
        assert pixels is not None  # neither lazy nor features
        weights = attention(clips[slot.video], model.question(slot)).float().cpu().numpy()  # (T, P)
        maps.append(
            AttentionMap(
                question=slot.question,
                weights=weights.reshape(-1, *grid),
                frames=visible(pixels, processor.image),
                times=np.array(layout.indices[slot.video]) / layout.clips[slot.video].meta.fps,
            )
        )
    return maps


def visible(pixels: torch.Tensor, image: ImageSpec) -> np.ndarray:
    """Convert normalized pixels (T, 3, S, S) back to images, uint8 (T, S, S, 3)."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (image.mean, image.std))
    values = (pixels * std + mean).clamp(0, 1) * 255
    return values.round().byte().permute(0, 2, 3, 1).cpu().numpy()
