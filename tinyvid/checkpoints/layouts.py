"""Find the function that loads a checkpoint by the layout of its folder."""

from collections.abc import Callable
from pathlib import Path

from tinyvid.checkpoints import native
from tinyvid.checkpoints.compat import internvl, llama_vid, llava, llava_onevision, smolvlm, tinyllava_video
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, listed
from tinyvid.files import read_json

# The readers of other projects' layouts, by the name of the project.
READERS = {
    "TinyLLaVA-Video": tinyllava_video,
    "LLaMA-VID": llama_vid,
    "InternVL": internvl,
    "LLaVA": llava,
    "LLaVA-OneVision": llava_onevision,
    "SmolVLM": smolvlm,
}
CONFIG = "config.json"


def reader_of(folder: Path) -> Callable[..., Loaded]:
    """Return the function that loads checkpoints of the layout of a folder.

    Raises:
        CheckpointError: The layout is unknown.
    """
    if (folder / native.MANIFEST).exists():
        return native.load
    kind = ""
    if (folder / CONFIG).exists():
        for reader in READERS.values():
            if reader.recognizes(folder):
                return reader.load
        stated = read_json(folder / CONFIG).get("model_type")
        kind = f"its {CONFIG} has model_type={stated!r:.80}, which is not one of the models of docs/families.md, and "
    found = listed(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    raise CheckpointError(
        f"{folder} is not a checkpoint that tinyvid can read: {kind}it contains {found}; expected {native.MANIFEST} "
        f"(tinyvid), or the {CONFIG} of {', '.join(READERS)}"
    )


def stored_dtype(path: str) -> str:
    """Return the dtype of the weights according to a local checkpoint's ``config.json``; ``auto`` if it has none."""
    file = Path(path) / CONFIG
    settings = read_json(file) if file.is_file() else {}
    return str(settings.get("dtype") or settings.get("torch_dtype") or "auto")
