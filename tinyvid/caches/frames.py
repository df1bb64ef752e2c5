"""Cache resized frames on disk, before normalization, so that each clip is decoded and resized once."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tinyvid.caches.digests import Digests
from tinyvid.caches.store import Store
from tinyvid.errors import ConfigError, suggest
from tinyvid.types import ImageSpec, VideoSource

FrameFormat = Literal["uint8", "jpeg"]
JPEG_QUALITY = 95  # with full color resolution; the mean error on photographs is about two of 255 levels
VERSION = 1  # increase it if decoding, resizing or the format of an entry changes


class FrameCache:
    """Cache the resized frames of clips. Clips from arrays in memory are not cached.

    A hit and a miss return the same frames: with ``jpeg``, a miss also returns compressed frames.

    Args:
        folder: Folder of the entries.
        max_gib: Maximum size of all entries, in GiB.
        format: ``uint8`` is lossless (S * S * 3 bytes per frame); ``jpeg`` is lossy and at most a fifth of the size.

    Raises:
        ConfigError: An option is invalid, or the folder cannot be created.
    """

    def __init__(self, folder: str | Path, *, max_gib: float, format: FrameFormat = "uint8") -> None:
        if format not in get_args(FrameFormat):
            raise ConfigError(f"cache.format={format!r} is unknown. {suggest(str(format), get_args(FrameFormat))}")
        self.format = format
        self.store = Store(folder, max_gib=max_gib, name="cache.frames")
        self.digests = Digests(self.store.folder / "cache.digests")

    def key(self, source: VideoSource, numbers: Sequence[int], image: ImageSpec, reader: str) -> str | None:
        """Return the key of frames ``numbers`` of a source, resized for ``image``; ``None`` if it cannot be cached.

        The key depends on the content of the file or folder, not on its name.
        """
        content = self.digests(source)
        if content is None:
            return None
        return key_of(
            kind="frames",
            content=content,
            numbers=[int(number) for number in numbers],
            reader=reader,
            format=f"jpeg{JPEG_QUALITY}" if self.format == "jpeg" else self.format,
            **_resizing(image),
        )

    def get(self, key: str | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the cached frames, uint8 (T, S, S, 3); on a miss, call ``make`` and cache its result."""
        if key is None:
            return make()
        kept = self.store.read(key)
        if kept is None:
            kept = _encode(make(), self.format)
            self.store.write(key, kept)
        return _decode(kept, self.format)


def key_of(**parts: Any) -> str:
    """Return a hash of all that an entry depends on."""
    text = json.dumps({"version": VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _resizing(image: ImageSpec) -> dict[str, Any]:
    """Return the part of an image spec that resized frames depend on."""
    parts: dict[str, Any] = {
        "size": image.size,
        "resize": image.resize,
        "crop_pct": image.crop_pct,
        "interpolation": image.interpolation,
    }
    if image.resize == "pad":
        parts["color"] = image.mean  # the color of the padding
    if image.longest_edge is not None:
        parts["longest_edge"] = image.longest_edge
    return parts


def _encode(frames: np.ndarray, format: FrameFormat) -> dict[str, Tensor]:
    if format == "uint8":
        return {"frames": torch.from_numpy(frames)}  # (T, S, S, 3)
    return {f"{number:06d}": _to_jpeg(frame) for number, frame in enumerate(frames)}  # each (bytes,)


def _to_jpeg(frame: np.ndarray) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def _decode(kept: Mapping[str, Tensor], format: FrameFormat) -> np.ndarray:
    if format == "uint8":
        return kept["frames"].numpy()
    files = [io.BytesIO(kept[name].numpy().tobytes()) for name in sorted(kept)]
    return np.stack([np.asarray(Image.open(file, formats=["JPEG"])) for file in files])
