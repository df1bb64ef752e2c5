"""Find the function that loads a checkpoint by the layout of its folder."""

from collections.abc import Callable
from pathlib import Path

from tinyvid.checkpoints import native
from tinyvid.checkpoints.compat import llama_vid, tinyllava_video
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, listed


def reader_of(folder: Path) -> Callable[..., Loaded]:
    """Return the function that loads checkpoints of the layout of a folder.

    Raises:
        CheckpointError: The layout is unknown.
    """
    if (folder / native.MANIFEST).exists():
        return native.load
    if tinyllava_video.recognizes(folder):
        return tinyllava_video.load
    if llama_vid.recognizes(folder):
        return llama_vid.load
    found = listed(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    raise CheckpointError(
        f"{folder} is not a checkpoint that tinyvid can read: it contains {found}; expected "
        f"{native.MANIFEST} (tinyvid) or a config.json with model_type 'tinyllava' (TinyLLaVA-Video)"
    )
