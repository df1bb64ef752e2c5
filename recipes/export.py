"""Export a self-contained checkpoint: ``python recipes/export.py --help`` lists the options.

A run stores only the weights it trained, plus references to the rest. An export contains everything: LLM, vision tower,
connector and tokenizer, with adapters merged in float32, in one directory that ``Assistant.from_pretrained`` reads
offline. It also contains a model card and, in ``adapters_unmerged/``, the original adapters in peft's layout. ``push=``
sends the directory to the Hugging Face hub.
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
from tinyvid.checkpoints import hub, native
from tinyvid.checkpoints.layouts import stored_dtype
from tinyvid.checkpoints.native import Loaded
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.files import expanded
from tinyvid.models import adapters
from tinyvid.models.video_llm import PARTS
from tinyvid.training.model_card import write_card

UNMERGED = "adapters_unmerged"


def main(config: DictConfig, _: CommandLine) -> None:
    """Export the checkpoint given on the command line."""
    for key in ("ckpt", "out"):
        if not config[key] and not (key == "ckpt" and config.push):
            raise ConfigError(f"{key}= is missing; run: python recipes/export.py ckpt=RUN/model out=DIR")
    unused = [key for key in ("private", "revision", "message", "license") if config[key] is not None]
    if not config.push and unused:
        raise ConfigError(f"{unused[0]}= needs push=, the repository of the hub to send the directory to")
    if config.private not in (None, True, False):
        raise ConfigError(f"private={config.private!r} must be true, false or null")
    if config.push:
        hub.check_destination(config.push, config.revision)  # before the export, which takes minutes
    if config.ckpt:
        export(config.ckpt, Path(config.out), dtype=config.dtype, device=config.device)
        print(f"Wrote {config.out}")
    if config.push:
        send(config)


def send(config: DictConfig) -> None:
    """Send the written directory to the hub.

    Raises:
        ConfigError: See ``hub.push``.
        CheckpointError: See ``hub.push``.
    """
    folder = Path(config.out)
    if not folder.is_dir():
        raise CheckpointError(f"there is no directory out={config.out!r} to send; set ckpt= to write it")
    options = {"revision": config.revision, "commit_message": config.message, "license": config.license}
    try:
        address = hub.push(folder, config.push, private=config.private, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {folder} is complete, so run the same command without ckpt=") from error
    print(f"Sent to {address}")


def export(ckpt: str, out: Path, *, dtype: str | None = None, device: str = "cpu") -> None:
    """Write a self-contained copy of a checkpoint; on failure, nothing is written.

    Args:
        ckpt: Directory or hub id of a checkpoint.
        out: Directory to write.
        dtype: Data type of the written weights; ``None`` keeps that of each part.
        device: Device on which adapters are merged.

    Raises:
        ConfigError: ``dtype`` or ``device`` is unknown.
        CheckpointError: ``out`` exists and is not empty, or the checkpoint cannot be loaded.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is unknown. {suggest(dtype, DTYPES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"out={out} already exists and is not empty; choose another out= or remove it")
    # Always in full precision: a merged weight is a sum, which half precision would round twice.
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
    """Merge the adapters of a model in place, cast its parts, and mark all of them as stored.

    Raises:
        CheckpointError: The LLM is quantized.
    """
    if adapters.is_quantized(loaded.model.llm):
        raise CheckpointError("the LLM is quantized, so its adapters cannot be merged; load with quant=none")
    for part in PARTS:
        setattr(loaded.model, part, adapters.merged(loaded.model.get_submodule(part)).to(dtypes[part]))
    return replace(loaded, stored=frozenset(native.PARTS))


def dtypes_of(ckpt: str, loaded: Loaded) -> dict[str, torch.dtype]:
    """Return the data type of each part in a checkpoint; float32 if it is not recorded."""
    folder = expanded(ckpt)
    if not (folder / native.MANIFEST).is_file():
        return dict.fromkeys(PARTS, DTYPES.get(stored_dtype(ckpt), torch.float32))
    llm, tower = loaded.groups["llm"], loaded.groups["vision_tower"]
    with safe_open(folder / "connector.safetensors", framework="pt") as file:
        connector = file.get_tensor(next(iter(file.keys()))).dtype
    return {"llm": recorded(llm), "vision_tower": recorded(tower), "connector": connector}


def recorded(group: dict[str, str | None]) -> torch.dtype:
    """Return the dtype in a part's transformers config.json; float32 if there is none."""
    from transformers import PretrainedConfig  # heavy

    try:
        config, _ = PretrainedConfig.get_config_dict(group["path"], revision=group["revision"])
    except (OSError, ValueError):  # not a transformers model: such vision towers are published in float32
        return torch.float32
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


if __name__ == "__main__":
    run_hydra(main, config="export")
