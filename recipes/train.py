"""Fine-tune a video-language model: ``python recipes/train.py --help`` lists the options.

All training stages use this program and differ only in YAML. The folder of a run contains the composed configuration,
the log, metrics, a loss curve, checkpoints that ``Assistant.from_pretrained`` reads, and the final model in ``model``.
"""

import hashlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from transformers import set_seed

from tinyvid import DATASETS, Assistant, ConfigError, EvaluationOptions, build_benchmark
from tinyvid.build import check, resolve_device, resolve_dtype
from tinyvid.caches import CacheOptions, attach
from tinyvid.checkpoints.native import Loaded
from tinyvid.command_line import CommandLine, leave_processes, readable_errors, run_hydra
from tinyvid.config import CHANGEABLE, PARTS
from tinyvid.data.datasets import held_out_rows
from tinyvid.errors import suggest
from tinyvid.interrupts import Interrupted, Interrupts, interruptible, unbroken_output
from tinyvid.models.llms.packing import check_packing
from tinyvid.outputs import owned
from tinyvid.registry import check_options
from tinyvid.training import DataPolicy, TrainingData, TrainOptions, VideoTrainer, read_recipe, trainable
from tinyvid.training.evaluation import TrainingBenchmark, TrainingLook
from tinyvid.training.packing import PackedRows
from tinyvid.training.runs import RECORD, RESULT, identity_of, prepare

logger = logging.getLogger("tinyvid.train")

STOPPING = "Stopping after this step, with a checkpoint. A second signal stops at once and loses the step."


def main(config: DictConfig, line: CommandLine) -> None:
    """Train with the settings of the command line, in the run folder created by Hydra."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if settings["ckpt"] is not None:
        groups = line.checkpoint_groups(config, allow=("experiment",))
        groups = {kind: group or {} for kind, group in groups.items()}  # an empty group removes the checkpoint's
        settings |= {kind: groups.get(kind) for kind in (*CHANGEABLE, *PARTS)}  # null keeps it
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not line.chosen("run_dir"):
        raise ConfigError(
            "run_dir is not set, and its default contains the time, which differs between processes; set run_dir="
        )
    if settings["resume"] and HydraConfig.get().mode == RunMode.MULTIRUN:
        if (run_dir / RESULT).exists():
            logger.info("The run in %s is already finished.", run_dir)
            return
        settings["resume"] = (run_dir / RECORD).exists()  # start jobs that the interrupted sweep did not reach
    try:
        train(settings, run_dir)
    except Interrupted:
        leave_processes()
        if not (run_dir / RESULT).exists():
            logger.warning("Interrupted. Continue with: %s", again(line))
        raise


def again(line: CommandLine) -> str:
    """Return the command that continues a run, or a sweep."""
    config = HydraConfig.get()
    folder = config.sweep.dir if config.mode == RunMode.MULTIRUN else config.runtime.output_dir
    kept = [part for part in line.arguments if part.partition("=")[0].lstrip("+") not in ("run_dir", "resume")]
    return shlex.join(["python", sys.argv[0], *kept, f"run_dir={line.text.get('run_dir', folder)}", "resume=true"])


@dataclass(frozen=True)
class Settings:
    """The checked configuration."""

    options: TrainOptions
    parts: dict[str, trainable.PartOptions]
    peft: trainable.PeftOptions
    policy: DataPolicy
    cache: CacheOptions
    rows: Any
    held_out: Any
    benchmark: Any
    report: str | None

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
        policy = {key: data.pop(key) for key in ("on_error", "max_skip", "skip_listed")}
        if ":" in settings["device"]:
            raise ConfigError(
                f"device={settings['device']}: training does not accept a device index; set device=cuda and "
                "CUDA_VISIBLE_DEVICES"
            )
        if settings["ckpt"] is None:
            check(settings)
        checked = DataPolicy(**check_options(DataPolicy, policy, key="data"))
        benchmark = build_benchmark(settings["benchmark"]) if settings.get("benchmark") else None
        rows, held_out = DATASETS.build(data), held_out_rows(settings["eval_path"], data)
        if options.early_stopping is not None and held_out is None and benchmark is None:
            raise ConfigError(
                f"recipe.early_stopping={options.early_stopping} needs an evaluation; set eval_path= or benchmark="
            )
        report = settings["report"]
        if report not in (None, "look"):
            raise ConfigError(f"report={report!r} is unknown. {suggest(str(report), ['look'])}")
        if report and benchmark is None:
            raise ConfigError(f"report={report} needs benchmark=; choose the questions to ask")
        return cls(options, parts, peft, checked, cache, rows, held_out, benchmark, report)


def train(settings: Mapping[str, Any], run_dir: Path) -> Path:
    """Train, and return the folder of the finished model.

    Args:
        settings: The composed configuration, as plain data.
        run_dir: Folder for all outputs.

    Raises:
        ConfigError: A setting is invalid; no weights were loaded.
    """
    run = Settings.read(settings)
    is_first = int(os.environ.get("RANK", "0")) == 0
    with owned(run_dir, key="run_dir") if is_first else nullcontext():
        return _train(run, settings, run_dir)


def _train(run: Settings, settings: Mapping[str, Any], run_dir: Path) -> Path:
    look = TrainingLook(run.benchmark, run_dir, options=asking(settings)) if run.report else None
    rows = {"data": identity_of(run.rows), "eval_path": run.held_out and identity_of(run.held_out)}
    newest = prepare(settings, run_dir, rows=rows)
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
        evaluate_on=evaluated(run, loaded),
        benchmark=asked(run.benchmark, settings, run_dir),
    )
    if look and trainer.is_fsdp_enabled:
        raise ConfigError(
            "report=look needs unsharded weights in every process; use DDP instead of FSDP, or run recipes/look.py on "
            "the trained model"
        )
    if look and newest is None and settings["ckpt"] is not None:
        look.before(loaded)
    with unbroken_output(), Interrupts(notice=STOPPING) as trainer.interrupts:
        trainer.train(resume_from_checkpoint=newest)
    result = run_dir / RESULT
    trainer.save_result(result)
    if trainer.is_world_process_zero():
        logger.info("Saved the model to %s. %s", result, trainer.skipped.summary())
        logger.info("To train it further, set ckpt=%s and another run_dir.", result)
    if look:
        again = f"python recipes/look.py ckpt={result} benchmark={run.benchmark.name} run_dir=ANOTHER"
        with interruptible(f"The model is complete, and only its look report is missing: {again}"):
            findings = look(loaded, result)
        if trainer.is_world_process_zero():
            logger.info("Look report in %s:\n%s", look.folder, "\n".join(findings))
    return result


def load(settings: Mapping[str, Any]) -> Loaded:
    """Load the initial checkpoint, with the groups that the run changes, or build the parts."""
    choices = {"device": settings["device"], "dtype": settings["dtype"], "quant": settings["quant"]}
    if settings["ckpt"] is None:
        return Assistant.from_config(settings, **choices).loaded
    groups = {kind: settings[kind] for kind in (*CHANGEABLE, "llm") if settings.get(kind) is not None}
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
        ConfigError: The video tokens of the connector depend on the question, or the LLM mixes packed rows.
    """
    if options.pack == 1:
        return rows
    check_packing(loaded.model.llm, loaded.processor.max_length)
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
    return TrainingBenchmark(benchmark, run_dir, options=asking(settings))


def asking(settings: Mapping[str, Any]) -> EvaluationOptions:
    """Return the options with which a training run asks its benchmark."""
    chosen = {"limit": settings["limit"], "batch_size": settings["recipe"]["batch_size"]}
    return EvaluationOptions(**check_options(EvaluationOptions, chosen, key="train.py"))


def evaluated(run: Settings, loaded: Loaded) -> TrainingData | None:
    """Return the evaluation rows, after checking all of them: after an epoch would be too late."""
    if run.held_out is None:
        return None
    rows = TrainingData(run.held_out, loaded.processor, run.policy)
    rows.check()
    return rows


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
    with readable_errors():
        arguments = CommandLine.parse(sys.argv[1:]).overrides
    OmegaConf.register_new_resolver("job_folder", lambda overrides: job_folder(overrides, arguments))
    run_hydra(main, config="train")
