"""Fine-tune a video-language model: ``python recipes/train.py --help`` lists the options.

All training stages use this program and differ only in YAML. The folder of a run contains the composed configuration,
the log, metrics, a loss curve, checkpoints that ``Assistant.from_pretrained`` reads, and the final model in ``model``.
"""

import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from tinyvid import DATASETS, Assistant, ConfigError, EvaluationOptions, build_benchmark
from tinyvid.build import check, resolve_device, resolve_dtype
from tinyvid.caches import CacheOptions, attach
from tinyvid.checkpoints.native import Loaded
from tinyvid.command_line import CHANGEABLE, CommandLine, run_hydra
from tinyvid.config import PARTS
from tinyvid.registry import check_options
from tinyvid.training import DataPolicy, TrainingData, TrainOptions, VideoTrainer, read_recipe, trainable
from tinyvid.training.evaluation import TrainingBenchmark
from tinyvid.training.packing import PackedRows
from tinyvid.training.trainer import PARTIAL

logger = logging.getLogger("tinyvid.train")

FREE_TEXT = ("ckpt",)
# Keys that a resumed run may change, because they do not affect the result.
FREE_ON_RESUME = (
    "resume",
    "device",
    "run_dir",
    "cache.frames",
    "cache.max_gib",
    "recipe.workers",
    "recipe.log_every",
    "recipe.save_every",
)


def main(config: DictConfig, line: CommandLine) -> None:
    """Train with the settings of the command line, in the run folder created by Hydra."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    settings["ckpt"] = line.checkpoint(config)
    if settings["ckpt"] is not None:
        groups = line.checkpoint_groups(config, allow=("experiment",))
        settings |= {kind: groups.get(kind) for kind in (*CHANGEABLE, *PARTS)}  # null keeps the checkpoint's
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not line.chosen("run_dir"):
        raise ConfigError(
            "run_dir is not set, and its default contains the time, which differs between processes; set run_dir="
        )
    if settings["resume"] and HydraConfig.get().mode == RunMode.MULTIRUN:
        if (run_dir / "model").exists():
            logger.info("The run in %s is already finished.", run_dir)
            return
        settings["resume"] = (run_dir / "config.yaml").exists()  # start jobs that the interrupted sweep did not reach
    train(settings, run_dir)


@dataclass(frozen=True)
class Settings:
    """The checked configuration."""

    options: TrainOptions
    parts: dict[str, trainable.PartOptions]
    peft: trainable.PeftOptions
    policy: DataPolicy
    cache: CacheOptions
    rows: Any
    benchmark: Any

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> "Settings":
        """Check all settings and index the rows, without loading weights.

        Raises:
            ConfigError: A setting is invalid.
            DataError: The rows cannot be read.
        """
        options, parts = read_recipe(settings["recipe"])
        peft = trainable.PeftOptions(**check_options(trainable.PeftOptions, settings["peft"], key="peft"))
        cache = CacheOptions(**check_options(CacheOptions, settings["cache"], key="cache"))
        data = dict(settings["data"])
        policy = {key: data.pop(key) for key in ("on_error", "max_skip")}
        if ":" in settings["device"]:
            raise ConfigError(
                f"device={settings['device']}: training does not accept a device index; set device=cuda and "
                "CUDA_VISIBLE_DEVICES"
            )
        if settings["ckpt"] is None:
            check(settings)
        checked = DataPolicy(**check_options(DataPolicy, policy, key="data"))
        benchmark = build_benchmark(settings["benchmark"]) if settings.get("benchmark") else None
        return cls(options, parts, peft, checked, cache, DATASETS.build(data), benchmark)


def train(settings: Mapping[str, Any], run_dir: Path) -> Path:
    """Train, and return the folder of the finished model.

    Args:
        settings: The composed configuration, as plain data.
        run_dir: Folder for all outputs.

    Raises:
        ConfigError: A setting is invalid; no weights were loaded.
    """
    run = Settings.read(settings)
    newest = prepare(settings, run_dir)
    set_seed(run.options.seed)
    loaded = load(settings)
    reports = trainable.apply(loaded.model, run.parts, run.peft, lr=run.options.lr)
    logger.info("Trainable parameters:\n%s", trainable.table(reports))
    attach(run.cache, loaded.model, loaded.processor, loaded.groups)
    speed_up(loaded, run.options)
    trainer = VideoTrainer(
        loaded,
        run.options,
        run.parts,
        run_dir=run_dir,
        dtype=resolve_dtype(settings["dtype"], resolve_device(settings["device"])),
        train=TrainingData(packed(run.rows, run.options, loaded), loaded.processor, run.policy),
        evaluate_on=held_out(settings, loaded, run.policy),
        benchmark=asked(run.benchmark, settings, run_dir),
    )
    trainer.train(resume_from_checkpoint=newest)
    result = run_dir / "model"
    trainer.save_result(result)
    if trainer.is_world_process_zero():
        logger.info("Saved the model to %s. Skipped %s rows.", result, len(trainer.skipped))
    return result


def prepare(settings: Mapping[str, Any], run_dir: Path) -> str | None:
    """Create the run folder, record the configuration, and return the checkpoint to resume from, if any.

    Raises:
        ConfigError: The folder already contains a run, or ``resume`` finds no run or one with other settings.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    record = run_dir / "config.yaml"
    newest = get_last_checkpoint(str(run_dir))
    if int(os.environ.get("RANK", "0")) > 0:
        return newest  # the first process checks and records for all
    for partial in run_dir.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial)  # an incomplete checkpoint of an interrupted run
    if (run_dir / "model").exists():
        raise ConfigError(f"run_dir={str(run_dir)!r} contains a finished model; choose another run_dir")
    if record.exists() and not settings["resume"]:
        raise ConfigError(
            f"run_dir={str(run_dir)!r} already contains a run; continue it with resume=true, or choose another run_dir"
        )
    if settings["resume"]:
        if not record.exists():
            raise ConfigError(
                f"resume=true, but run_dir={str(run_dir)!r} contains no run; set the run_dir of the run to resume"
            )
        refuse_changes(settings, OmegaConf.to_container(OmegaConf.load(record)), run_dir)
    OmegaConf.save(OmegaConf.create(dict(settings)), record)
    return newest


def refuse_changes(new: Mapping[str, Any], old: Any, run_dir: Path) -> None:
    """Raise ConfigError if a resumed run has settings that would affect its result."""
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
    """Load the initial checkpoint, with the run's sampler, template and video reader if set, or build the parts."""
    choices = {"device": settings["device"], "dtype": settings["dtype"], "quant": settings["quant"]}
    if settings["ckpt"] is None:
        return Assistant.from_config(settings, **choices).loaded
    groups = {kind: settings[kind] for kind in (*CHANGEABLE, "llm") if settings[kind] is not None}
    return Assistant.from_pretrained(settings["ckpt"], **choices, **groups).loaded


def speed_up(loaded: Loaded, options: TrainOptions) -> None:
    """Enable activation checkpointing and compilation if the recipe says so."""
    llm = loaded.model.llm
    if options.gradient_checkpointing:
        llm.activation_checkpointing_enable()
    if options.compile:
        for block in llm.get_decoder().layers:
            block.compile()


def packed(rows: Any, options: TrainOptions, loaded: Loaded) -> Any:
    """Return the rows, packed by video if the recipe says so.

    Raises:
        ConfigError: The video tokens of the connector depend on the question.
    """
    if options.pack == 1:
        return rows
    if loaded.processor.tokens.reads_question:
        name = loaded.groups["connector"]["name"]
        raise ConfigError(
            f"recipe.pack={options.pack}, but the video tokens of connector '{name}' depend on the question; "
            "set recipe.pack=1"
        )
    return PackedRows(rows, options.pack)


def asked(benchmark: Any, settings: Mapping[str, Any], run_dir: Path) -> TrainingBenchmark | None:
    """Return the benchmark to evaluate during training, with its options."""
    if benchmark is None:
        return None
    chosen = {"limit": settings["limit"], "batch_size": settings["recipe"]["batch_size"]}
    options = EvaluationOptions(**check_options(EvaluationOptions, chosen, key="train.py"))
    return TrainingBenchmark(benchmark, run_dir, options=options)


def held_out(settings: Mapping[str, Any], loaded: Loaded, policy: DataPolicy) -> TrainingData | None:
    """Return the evaluation rows."""
    if settings["eval_path"] is None:
        return None
    media_root = settings["data"].get("media_root")
    rows = DATASETS.build({"name": "jsonl", "path": settings["eval_path"], "media_root": media_root}, key="eval_path")
    return TrainingData(rows, loaded.processor, policy)


def job_folder(overrides: Sequence[str], given: Sequence[str]) -> str:
    """Return the folder name of a sweep job: the overrides that differ between jobs, without special characters.

    Args:
        overrides: Overrides of the job.
        given: Overrides on the command line.
    """
    parsed = OverridesParser.create().parse_overrides(list(given))
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    fixed = {override.get_key_element() for override in parsed} - swept  # a configuration may name sweeps, too
    varied = [override for override in overrides if override.partition("=")[0] not in fixed]
    name = "_".join(re.sub(r"[^\w.+]+", "-", override).strip("-") for override in varied) or "only"
    return name if len(name) <= 150 else f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    arguments = CommandLine.parse(sys.argv[1:], free_text=FREE_TEXT).overrides
    OmegaConf.register_new_resolver("job_folder", lambda overrides: job_folder(overrides, arguments))
    run_hydra(main, config="train", free_text=FREE_TEXT)
