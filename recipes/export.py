"""Export a self-contained checkpoint: ``python recipes/export.py --help`` lists the options.

A run stores only the weights it trained, plus references to the rest. An export contains everything: LLM, vision tower,
connector and tokenizer, with adapters merged in float32, in one directory that ``Assistant.from_pretrained`` reads
offline. It also contains a model card and, in ``adapters_unmerged/``, the original adapters in peft's layout. ``push=``
sends the directory to the Hugging Face hub.

``to=llava`` writes another layout instead, which transformers loads without tinyvid, and ``to=gguf`` the files of
llama.cpp. Both compare the export with the model: parity.md. A difference above ``tolerance`` is an error.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open

from tinyvid import Assistant, Message, Sample, Video
from tinyvid.answers import find_clips
from tinyvid.build import DTYPES
from tinyvid.checkpoints import hub, native
from tinyvid.checkpoints.layouts import stored_dtype
from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving import gguf, parity, writing
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.models import adapters
from tinyvid.models.video_llm import PARTS
from tinyvid.outputs import share
from tinyvid.training.model_card import reports_of, write_card

UNMERGED = "adapters_unmerged"
# Options of ``to=``: their types, smallest values, and a description.
NUMBERS: dict[str, tuple[Any, float, str]] = {
    "clips": (int, 1, "a whole number of at least 1"),
    "reply_tokens": (int, 1, "a whole number of at least 1"),
    "tolerance": (int | float, float("-inf"), "a number"),
    "enlarge": (bool, 0, "true or false"),
}


def main(config: DictConfig, _: CommandLine) -> None:
    """Export the checkpoint given on the command line."""
    check(config)
    if config.ckpt and config.to is not None:
        write_served(config)
    elif config.ckpt:
        options = {key: config[key] for key in ("dtype", "device", "evaluations")}
        export(config.ckpt, Path(config.out), **options)
        print(f"Wrote {config.out}")
    if config.push:
        send(config)


def check(config: DictConfig) -> None:
    """Raise ``ConfigError`` if the options contradict each other, before the export, which takes minutes."""
    for key in ("ckpt", "out"):
        if not config[key] and not (key == "ckpt" and config.push):
            raise ConfigError(f"{key}= is missing; run: python recipes/export.py ckpt=RUN/model out=DIR")
    unused = [key for key in ("private", "revision", "message", "license") if config[key] is not None]
    if not config.push and unused:
        raise ConfigError(f"{unused[0]}= needs push=, the repository of the hub to send the directory to")
    if config.evaluations and not config.ckpt:
        raise ConfigError("evaluations= needs ckpt=, the model that they evaluated")
    if config.push and config.to == gguf.NAME:
        raise ConfigError("push= sends checkpoints, which GGUF files are not; use 'hf upload' for them")
    if config.private not in (None, True, False):
        raise ConfigError(f"private={config.private!r} must be true, false or null")
    if config.push:
        hub.check_destination(config.push, config.revision)


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


def write_served(config: DictConfig) -> None:
    """Export to the layout ``to=``, and print what other programs do differently."""
    for key, (kind, least, expected) in NUMBERS.items():
        value = config[key]
        if not isinstance(value, kind) or (type(value) is bool) != (kind is bool) or not value >= least:
            raise ConfigError(f"{key}={value!r} must be {expected}")
    samples = samples_of(config.video, config.clips, config.question)
    keys = ("dtype", "device", "evaluations", "enlarge", "tolerance", "reply_tokens")
    options = {key: config[key] for key in keys}
    notes = serve(config.ckpt, Path(config.out), config.to, samples, **options)
    print("\n".join([f"Wrote {config.out}, and the comparison with tinyvid in parity.md", *notes]))


def export(
    ckpt: str, out: Path, *, dtype: str | None = None, device: str = "cpu", evaluations: Sequence[str] | None = None
) -> None:
    """Write a self-contained copy of a checkpoint; on failure, nothing is written.

    Args:
        ckpt: Directory or hub id of a checkpoint.
        out: Directory to write.
        dtype: Data type of the written weights; ``None`` keeps that of each part.
        device: Device on which adapters are merged.
        evaluations: Folders of evaluations of the checkpoint, for the model card.

    Raises:
        ConfigError: ``dtype`` or ``device`` is unknown.
        CheckpointError: ``out`` exists and is not empty, or the checkpoint cannot be loaded.
        DataError: See ``reports_of``.
    """
    reports = reports_of(evaluations or (), ckpt)
    loaded, dtypes = load(ckpt, out, dtype, device)
    with written(out) as partial:
        unmerged = save_adapters(loaded, partial / UNMERGED)
        native.write(standing_alone(loaded, dtypes), partial)
        write_card(partial, ckpt, loaded.groups, dtypes, unmerged, name=out.name, reports=reports)


def serve(
    ckpt: str,
    out: Path,
    to: str,
    samples: list[Sample],
    *,
    dtype: str | None = None,
    device: str = "cpu",
    evaluations: Sequence[str] | None = None,
    enlarge: bool = False,
    tolerance: float = 1e-4,
    reply_tokens: int = 32,
) -> list[str]:
    """Write a checkpoint in a layout of other programs, and compare both; on failure, nothing is written.

    Args:
        ckpt: See ``export``.
        out: See ``export``.
        to: The layout: a key of ``writing.LAYOUTS``, or ``gguf`` for llama.cpp.
        samples: Questions for the comparison, about one video each.
        dtype: See ``export``.
        device: See ``export``.
        evaluations: See ``export``.
        enlarge: Whether rows may be added to the embedding, if none is free for the placeholder of video tokens.
        tolerance: Largest allowed difference of logits.
        reply_tokens: Longest reply of the comparison.

    Returns:
        What other programs do differently from tinyvid.

    Raises:
        ConfigError: An option is unknown, or a part of the model has no place in the layout.
        CheckpointError: As in ``export``; or the export differs from the model.
    """
    known = (*writing.LAYOUTS, gguf.NAME)
    if to not in known:
        raise ConfigError(f"to={to!r} is unknown. {suggest(to, known)}")
    reports = reports_of(evaluations or (), ckpt)
    loaded, dtypes = load(ckpt, out, dtype, device)
    with written(out) as partial:
        loaded = standing_alone(loaded, dict.fromkeys(PARTS, torch.float32))
        round_weights(loaded, dtypes)
        if to == gguf.NAME:
            notes = gguf.write(loaded, partial, dtypes=dtypes)
            found = gguf.compare(loaded, partial, samples, reply_tokens=reply_tokens)
        else:
            notes = writing.write(loaded, partial, to, dtypes=dtypes, enlarge=enlarge)
            found = parity.compare(loaded, partial, to, samples, reply_tokens=reply_tokens)
        write_card(partial, ckpt, loaded.groups, dtypes, [], name=out.name, reports=reports)
        if fault := parity.fault(found, tolerance):
            raise CheckpointError(f"the export differs from {ckpt}: {fault}; nothing was written")
        parity.write_report(partial, found, notes, tolerance)
    return notes


def round_weights(loaded: Loaded, dtypes: dict[str, torch.dtype]) -> None:
    """Give the weights of a model the values that they have in an export, in place; they stay in float32.

    Casting the modules would also round what they compute once, such as the frequencies of positions.
    """
    for part, dtype in dtypes.items():
        for parameter in loaded.model.get_submodule(part).parameters():
            parameter.data = parameter.data.to(dtype).float()


def samples_of(video: str | None, clips: int, question: str) -> list[Sample]:
    """Return a question about each of the first clips of ``video=``, or about generated ones without it."""
    if video is not None:
        paths = find_clips(video)[:clips]
        return [Sample([Message("user", question)], id=Path(path).name, video=path) for path in paths]
    return [
        Sample([Message("user", question)], id=f"generated {number}", video=Video(generated_clip(number), fps=2.0))
        for number in range(clips)
    ]


def generated_clip(number: int) -> np.ndarray:
    """Return a clip of 16 frames, uint8 (T, 48, 64, 3), in which a square moves over colored noise."""
    noise = np.random.default_rng(number).integers(0, 128, (6, 8, 3), dtype=np.uint8)
    frames = np.stack([noise.repeat(8, 0).repeat(8, 1)] * 16)
    for position, frame in enumerate(frames):
        frame[16:32, 3 * position : 3 * position + 16] = (255, 80 * (number % 4), 0)
    return frames


def load(ckpt: str, out: Path, dtype: str | None, device: str) -> tuple[Loaded, dict[str, torch.dtype]]:
    """Return a checkpoint in float32, and the data type of each part in the export; see ``export``."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is unknown. {suggest(dtype, DTYPES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"out={out} already exists and is not empty; choose another out= or remove it")
    # Always in full precision: a merged weight is a sum, which half precision would round twice.
    loaded = Assistant.from_pretrained(ckpt, device=device, dtype="float32").loaded
    return loaded, dict.fromkeys(PARTS, DTYPES[dtype]) if dtype else dtypes_of(ckpt, loaded)


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Return a folder to write, which becomes ``out`` at the end; after an error, it is removed."""
    out = out.resolve()  # a link stays, and . has a name
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        share(partial)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SafetensorError):  # of a full disk
            advice = "free some space, or choose another folder"
            raise CheckpointError(f"out={out} cannot be written: {error}; {advice}") from error
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
    folder = hub.local_folder(ckpt)
    if not (folder / native.MANIFEST).is_file():
        return dict.fromkeys(PARTS, DTYPES.get(stored_dtype(str(folder)), torch.float32))
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
