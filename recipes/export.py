"""Make a checkpoint stand alone: ``python recipes/export.py --help`` lists what can be chosen.

A run writes what it trained plus references to what it did not. This writes everything: adapters merged into the
weights, LLM, tower, connector and tokenizer in one directory that ``Assistant.from_pretrained`` reads without the hub,
a model card, and under ``adapters_unmerged/`` the adapters as they were, for peft. Merging is done in float32.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors import safe_open

from tinyvid import Assistant
from tinyvid.build import DTYPES
from tinyvid.checkpoints import native
from tinyvid.checkpoints.compat.tinyllava_video import stored_dtype
from tinyvid.checkpoints.native import Loaded
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.models import adapters
from tinyvid.models.video_llm import PARTS
from tinyvid.training.model_card import write_card

UNMERGED = "adapters_unmerged"


def main(config: DictConfig, line: CommandLine) -> None:
    """Export as the command line says."""
    for key in ("ckpt", "out"):
        if not line.text.get(key):
            raise ConfigError(f"{key}= is missing: python recipes/export.py ckpt=RUN/model out=DIR")
    export(line.text["ckpt"], Path(line.text["out"]), dtype=config.dtype, device=config.device)
    print(f"wrote {line.text['out']}")


def export(ckpt: str, out: Path, *, dtype: str | None = None, device: str = "cpu") -> None:
    """Write a checkpoint as a directory that needs nothing else, whole or not at all.

    Args:
        ckpt: Directory or hub id of a checkpoint.
        out: Directory to write.
        dtype: Of the weights that are written; ``None`` for what each part is stored in.
        device: Where adapters are merged.

    Raises:
        ConfigError: ``dtype`` or ``device`` is unknown.
        CheckpointError: ``out`` exists and is not empty, or the checkpoint cannot be loaded.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is unknown. {suggest(dtype, DTYPES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} exists already and is not empty; choose another out=, or remove it first")
    # In full precision whatever the device prefers: a merged weight is a sum that half precision would round twice.
    loaded = Assistant.from_pretrained(ckpt, device=device, dtype="float32").loaded
    dtypes = dict.fromkeys(PARTS, DTYPES[dtype]) if dtype else dtypes_of(ckpt, loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        unmerged = save_adapters(loaded, partial / UNMERGED)
        native.write(standing_alone(loaded, dtypes), partial)
        write_card(partial, ckpt, loaded.groups, dtypes, unmerged)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def save_adapters(loaded: Loaded, folder: Path) -> list[str]:
    """Write each part's adapter in peft's layout, and return the parts that have one."""
    adapted = [part for part in PARTS if adapters.is_adapted(loaded.model.get_submodule(part))]
    for part in adapted:
        adapters.save(loaded.model.get_submodule(part), folder / part)
    return adapted


def standing_alone(loaded: Loaded, dtypes: dict[str, torch.dtype]) -> Loaded:
    """Merge the adapters of a model, which is used up, cast its parts, and have all of them stored.

    Raises:
        CheckpointError: The LLM is quantized.
    """
    if adapters.is_quantized(loaded.model.llm):
        raise CheckpointError("the LLM is quantized: its weights cannot be stored or merged; load with quant=none")
    for part in PARTS:
        setattr(loaded.model, part, adapters.merged(loaded.model.get_submodule(part)).to(dtypes[part]))
    return replace(loaded, stored=frozenset(native.PARTS))


def dtypes_of(ckpt: str, loaded: Loaded) -> dict[str, torch.dtype]:
    """Return what each part of a checkpoint is stored in; float32 where nothing says."""
    folder = Path(ckpt).expanduser()
    if not (folder / native.MANIFEST).is_file():
        return dict.fromkeys(PARTS, DTYPES.get(stored_dtype(ckpt), torch.float32))
    llm, tower = loaded.groups["llm"], loaded.groups["vision_tower"]
    with safe_open(folder / "connector.safetensors", framework="pt") as file:
        connector = file.get_tensor(next(iter(file.keys()))).dtype
    return {"llm": recorded(llm), "vision_tower": recorded(tower), "connector": connector}


def recorded(group: dict[str, str | None]) -> torch.dtype:
    """Return the dtype in a part's config.json, in the layout of transformers; float32 if there is none."""
    from transformers import PretrainedConfig  # heavy

    try:
        config, _ = PretrainedConfig.get_config_dict(group["path"], revision=group["revision"])
    except (OSError, ValueError):  # not of transformers: such towers are published in float32
        return torch.float32
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


if __name__ == "__main__":
    run_hydra(main, config="export", free_text=("ckpt", "out"))
