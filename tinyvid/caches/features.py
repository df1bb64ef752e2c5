"""Cache the output of a frozen vision tower on disk, so that the tower runs once per clip."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.caches.digests import Digests
from tinyvid.caches.frames import FrameCache, key_of
from tinyvid.caches.store import Store
from tinyvid.errors import ConfigError
from tinyvid.types import ImageSpec, VideoSource

WHERE_FROM = {"path", "revision"}  # options for the location of the weights; the key covers the weights themselves
NOT_COMPUTED = {"training", "name_or_path"}  # module attributes that do not affect the output of a frozen tower


class FeatureCache:
    """Cache the features (T, P, Dv) of clips in the tower's dtype. Clips from arrays in memory are not cached.

    Cached features are reused on every device, although devices round differently.

    Args:
        folder: Folder of the entries.
        max_gib: Maximum size of all entries, in GiB.
        tower_key: Key of the tower, from ``tower_key``.

    Raises:
        ConfigError: An option is invalid, or the folder cannot be created.
    """

    def __init__(self, folder: str | Path, *, max_gib: float, tower_key: str) -> None:
        self.tower_key = tower_key
        self.store = Store(folder, max_gib=max_gib, name="cache.features")
        self.digests = Digests(self.store.folder / "cache.digests")

    def key(
        self, source: VideoSource, numbers: Sequence[int], image: ImageSpec, reader: str, *, frames: FrameCache | None
    ) -> str | None:
        """Return the key of the features of frames ``numbers``, or ``None`` if they cannot be cached.

        Arguments as in ``FrameCache.key``; JPEG compression in the frame cache ``frames`` changes the key.
        """
        content = self.digests(source)
        if content is None:
            return None
        return key_of(
            kind="features",
            content=content,
            numbers=[int(number) for number in numbers],
            reader=reader,
            tower=self.tower_key,
            lossy=frames is not None and frames.format == "jpeg",
            **asdict(image),
        )

    def read(self, key: str | None) -> Tensor | None:
        """Return the features cached under a key, or ``None``."""
        kept = None if key is None else self.store.read(key)
        return None if kept is None else kept["features"]

    def write(self, key: str | None, features: Tensor) -> None:
        """Cache the features (T, P, Dv) of a clip; do nothing without a key."""
        if key is not None:
            self.store.write(key, {"features": features})


def tower_key(tower: nn.Module, options: Mapping[str, Any]) -> str:
    """Return a hash of all that determines a tower's output: options, module settings, weights and dtypes.

    Copies of the same weights at different paths give the same key. ``options`` is the ``vision_tower`` group.
    """
    settings = {
        "options": {name: value for name, value in options.items() if name not in WHERE_FROM},
        "modules": [[name, type(module).__qualname__, _settings(module)] for name, module in tower.named_modules()],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in [*tower.named_parameters(), *tower.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain values among a module's attributes, such as the number of heads or an epsilon."""
    return {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and name not in NOT_COMPUTED and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def check_frozen(tower: nn.Module) -> None:
    """Raise ``ConfigError`` if a weight of the tower is trainable, because its features would change."""
    trainable = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    if trainable:
        raise ConfigError(
            f"cache.features needs a frozen vision tower, but {len(trainable)} of its weights are trainable "
            f"(the first is {trainable[0]}); set cache.features=null or recipe.vision_tower.train=frozen"
        )
