"""Test whether a model uses the video, and what of it: ``python recipes/look.py --help`` lists the options.

Asks a benchmark with the clips, then with black frames, another video, the middle frame, and the frames shuffled and
reversed in place of them. Writes a table, a picture and one sentence per finding. docs/look.md explains them.
"""

import os
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tinyvid import JUDGES, Assistant, ConfigError, EvaluationOptions, build_benchmark
from tinyvid.caches import CacheOptions, attach
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import printable
from tinyvid.evaluation.running.looking import LookOptions, check_look, look_at
from tinyvid.interrupts import interruptible
from tinyvid.registry import check_options

OPTIONS = (
    *("limit", "score", "missing", "batch_size", "workers", "skip_listed"),
    *("max_new_tokens", "temperature", "top_p", "seed"),
)


def main(config: DictConfig, line: CommandLine) -> None:
    """Write or continue the look report of the command line, and print its findings."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    if settings.get("benchmark") is None:
        raise ConfigError(
            "benchmark= is missing; choose one, such as benchmark=shapes, or benchmark=custom for your own questions"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not line.chosen("run_dir"):
        raise ConfigError("run_dir= is not set, so each process would use another folder; set run_dir=")
    chosen = {key: settings[key] for key in OPTIONS}
    options = EvaluationOptions(**check_options(EvaluationOptions, chosen, key="look.py"))
    shown = {key: settings[key] for key in ("controls", "before")}
    look = LookOptions(**check_options(LookOptions, shown, key="look.py"))
    cache = CacheOptions(**check_options(CacheOptions, settings["cache"], key="cache"))
    benchmark = build_benchmark(settings["benchmark"])
    judge = JUDGES.build(settings["judge"]) if settings.get("judge") else None
    check_look(benchmark, look, options, judge)  # before the slow loading of the model
    assistant = load(config, line)
    if cache.features is not None:
        assistant.model.get_submodule("vision_tower").requires_grad_(False)
    attach(cache, assistant.model, assistant.processor, assistant.config)
    about = {"ckpt": config.ckpt, "quant": config.quant, "options": settings["benchmark"], "model": assistant.config}
    run_dir = settings["run_dir"]
    with interruptible(f"All answers so far are kept. To continue, run the same command with run_dir={run_dir}."):
        data = look_at(
            assistant,
            benchmark,
            run_dir=run_dir,
            look=look,
            options=options,
            judge=judge,
            settings=about,
            progress=True,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        print(printable("\n".join([*data["findings"], f"See {run_dir}/look.md for details."])))


def load(config: DictConfig, line: CommandLine) -> Assistant:
    """Load the checkpoint of the command line, or build the composed model."""
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    if config.ckpt is None:
        print("ckpt= is not set, so the connector of this new model is untrained", file=sys.stderr)
        return Assistant.from_config(config, **options)
    return Assistant.from_pretrained(config.ckpt, **options, **line.checkpoint_groups(config))


if __name__ == "__main__":
    run_hydra(main, config="look")
