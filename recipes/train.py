"""Fine-tune a video-language model: ``python recipes/train.py --help`` lists what can be chosen.

Every stage is this program; stages differ only in YAML. The folder of a run holds the composed configuration, the log,
the metrics and a loss curve, checkpoints that ``Assistant.from_pretrained`` reads, and in ``model`` the result.
"""

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from tinyvid import Assistant, adapt, checkpoint
from tinyvid.build import check, resolve_device, resolve_dtype
from tinyvid.caches import CacheOptions, attach
from tinyvid.checkpoint import Loaded
from tinyvid.command_line import FIXED_BY_CHECKPOINT, CommandLine, run_hydra
from tinyvid.errors import ConfigError
from tinyvid.registry import DATASETS, check_options
from tinyvid.training import DataPolicy, TrainingData, TrainOptions, VideoTrainer, read_recipe
from tinyvid.training.trainer import PARTIAL

logger = logging.getLogger("tinyvid.train")

# Keys that a resumed run may change, because they do not change what is learnt.
FREE_ON_RESUME = ("resume", "device", "run_dir", "cache.frames", "cache.max_gib", "recipe.workers", "recipe.log_every", "recipe.save_every")


def main(config: DictConfig, line: CommandLine) -> None:
    """Train as the command line says, in the folder that Hydra made for the run."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if "ckpt" in line.text:
        settings["ckpt"] = line.text["ckpt"]
        refuse_parts(line)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not line.chosen("run_dir"):
        raise ConfigError("several processes need one folder: give run_dir=, which they would name after the time each")
    train(settings, run_dir)


def train(settings: Mapping[str, Any], run_dir: Path) -> Path:
    """Train, and return the folder of the finished model.

    Args:
        settings: The composed configuration, as plain data.
        run_dir: Where everything is written.

    Raises:
        ConfigError: Something in ``settings`` is wrong; no weight was loaded.
    """
    options, parts = read_recipe(settings["recipe"])
    peft = adapt.PeftOptions(**check_options(adapt.PeftOptions, settings["peft"], key="peft"))
    data = dict(settings["data"])
    policy = DataPolicy(
        **check_options(DataPolicy, {key: data.pop(key) for key in ("on_error", "max_skip")}, key="data")
    )
    cache = CacheOptions(**check_options(CacheOptions, settings["cache"], key="cache"))
    if ":" in settings["device"]:
        raise ConfigError(f"device={settings['device']}: choose a GPU for training with CUDA_VISIBLE_DEVICES, and device=cuda")
    check(settings)
    rows = DATASETS.build(data)
    newest = prepare(settings, run_dir)

    set_seed(options.seed)
    loaded = load(settings)
    reports = adapt.apply(loaded.model, parts, peft, lr=options.lr)
    logger.info("what trains:\n%s", adapt.table(reports))
    attach(cache, loaded.model, loaded.processor, loaded.groups)
    speed_up(loaded, options)

    trainer = VideoTrainer(
        loaded,
        options,
        parts,
        run_dir=run_dir,
        dtype=resolve_dtype(settings["dtype"], resolve_device(settings["device"])),
        train=TrainingData(rows, loaded.processor, policy),
        evaluate_on=held_out(settings, loaded, policy),
    )
    trainer.train(resume_from_checkpoint=newest)
    result = run_dir / "model"
    if trainer.is_world_process_zero():
        checkpoint.save(trainer.loaded, result)
        logger.info("the model is in %s; %s rows were skipped", result, len(trainer.skipped))
    return result


def refuse_parts(line: CommandLine) -> None:
    """Refuse overrides of what a checkpoint fixes; an experiment may still choose the recipe."""
    for group in FIXED_BY_CHECKPOINT:
        for key in line.chosen(group) if group != "experiment" else []:
            raise ConfigError(f"{key} is fixed by ckpt={line.text['ckpt']!r}; remove it")


def prepare(settings: Mapping[str, Any], run_dir: Path) -> str | None:
    """Make the run's folder, record the configuration, and return the checkpoint to continue, if any.

    Raises:
        ConfigError: The folder holds a run already, or ``resume`` finds another configuration or nothing to continue.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    record = run_dir / "config.yaml"
    newest = get_last_checkpoint(str(run_dir))
    if int(os.environ.get("RANK", "0")) > 0:
        return newest  # the first process checks and records for all
    for partial in run_dir.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial)  # a checkpoint that a kill left unfinished
    if (run_dir / "model").exists():
        raise ConfigError(f"run_dir={str(run_dir)!r} holds a finished model; choose another run_dir")
    if record.exists() and not settings["resume"]:
        raise ConfigError(
            f"run_dir={str(run_dir)!r} holds a run already; continue it with resume=true, or choose another"
        )
    if settings["resume"]:
        if not record.exists():
            raise ConfigError(
                f"resume=true, but run_dir={str(run_dir)!r} holds no run; give the run_dir of the first call"
            )
        refuse_changes(settings, OmegaConf.to_container(OmegaConf.load(record)), run_dir)
    OmegaConf.save(OmegaConf.create(dict(settings)), record)
    return newest


def refuse_changes(new: Mapping[str, Any], old: Any, run_dir: Path) -> None:
    """Refuse to continue a run with settings that would change what it learns."""
    before, after = flat(old), flat(new)
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    if changed:
        shown = ", ".join(f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed[:5])
        raise ConfigError(f"resume=true, but the settings differ from those of {str(run_dir)!r}: {shown}")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def load(settings: Mapping[str, Any]) -> Loaded:
    """Load the checkpoint to start from, or build the parts; sampler, template and reader are always the run's."""
    choices = {"device": settings["device"], "dtype": settings["dtype"], "quant": settings["quant"]}
    if settings["ckpt"] is None:
        return Assistant.from_config(settings, **choices).loaded
    groups = {kind: settings[kind] for kind in ("sampler", "template", "video_reader")}
    return Assistant.from_pretrained(settings["ckpt"], **choices, **groups).loaded


def speed_up(loaded: Loaded, options: TrainOptions) -> None:
    """Switch on what the recipe trades time and memory with."""
    llm = loaded.model.llm
    if options.gradient_checkpointing:
        llm.activation_checkpointing_enable()
    if options.compile:
        for block in llm.get_decoder().layers:
            block.compile()


def held_out(settings: Mapping[str, Any], loaded: Loaded, policy: DataPolicy) -> TrainingData | None:
    """Return the rows to evaluate on."""
    if settings["eval_path"] is None:
        return None
    media_root = settings["data"].get("media_root")
    rows = DATASETS.build({"name": "jsonl", "path": settings["eval_path"], "media_root": media_root}, key="eval_path")
    return TrainingData(rows, loaded.processor, policy)


if __name__ == "__main__":
    sys.exit(run_hydra(main, config="train", free_text=("ckpt",)))
