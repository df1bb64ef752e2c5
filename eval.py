"""Ask a video-language model about a video, or run a benchmark; ``python eval.py --help`` lists all options.

The package ``eval/`` next to this file contains the benchmarks; ``import eval`` finds it before this program.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinyvid import JUDGES, VIDEO_READERS, Assistant, ConfigError, Message, Sample, Video
from tinyvid.assistant import DEFAULT, DEFAULT_MODEL, local_folder
from tinyvid.caches import CacheOptions, attach
from tinyvid.checkpoints.compat.tinyllava_video import stored_dtype
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import printable
from tinyvid.generation.decode import Decoding
from tinyvid.interrupts import interruptible
from tinyvid.registry import check_options
from tinyvid.video.images import IMAGES
from tinyvid.video.open_video import open_video

ONLY_SHAPES = (
    "This is the default model. It only knows moving colored shapes (docs/shapes.md). "
    'Use another model: python eval.py ckpt=DIR video=FILE question="..."'
)
QUESTION = ("question", "video", "image", "attention_map")  # keys of a question
DECODING = ("max_new_tokens", "temperature", "top_p", "seed")  # options of decoding
OPTIONS = ("limit", "score", "missing", "batch_size", "workers", "judge_cache", "skip_listed")  # options of a benchmark
ONLY_BENCHMARK = ("judge", "run_dir", "cache", *OPTIONS)


def main() -> None:
    """Run the command line; a user error prints one line and exits with status 2."""
    run_hydra(run, config="eval")


def run(config: DictConfig, line: CommandLine) -> None:
    """Convert a checkpoint, run a benchmark or answer a question."""
    if not isinstance(config.stream, bool):
        raise ConfigError(f"stream={config.stream!r} must be true or false")
    if config.convert_to is not None:
        convert(config, line)
        return
    decoding = asdict(Decoding(**{key: config[key] for key in DECODING}))
    if config.get("benchmark") is not None:
        run_benchmark(config, line, decoding)
        return
    for key in ("benchmark.root", *ONLY_BENCHMARK):
        if line.chosen(key):
            raise ConfigError(f"{key}= needs benchmark=NAME")
    ask(config, line, decoding)


def ask(config: DictConfig, line: CommandLine, decoding: dict[str, Any]) -> None:
    """Answer the question of the command line."""
    if config.ckpt == DEFAULT and all(config[key] is None for key in QUESTION):
        demonstrate(config, line, decoding)
        return
    if not config.question:
        raise ConfigError('there is no question to answer; set question="..." (python eval.py --help lists all keys)')
    if config.video is not None and config.image is not None:
        raise ConfigError("video= and image= are both set; remove one of them")
    sample = Sample(messages=[Message("user", config.question)], video=video_of(config))
    reader = VIDEO_READERS.build(config.video_reader)
    for video in sample.videos:  # fail before the slow loading of the model
        open_video(video, reader)
    if config.attention_map is not None and not sample.videos:
        raise ConfigError("attention_map= needs video= or image=")
    assistant = load(config, line)
    if config.attention_map is not None:
        draw(assistant, sample.videos[0], config)
    if config.stream:
        for piece in assistant.stream(sample, **decoding):
            print(printable(piece), end="", flush=True)
        print()
    else:
        print(printable(assistant.answer([sample], **decoding)[0]))


def demonstrate(config: DictConfig, line: CommandLine, decoding: dict[str, Any]) -> None:
    """Ask the default model about its clip, and print the video, the question and the answer."""
    video, question = DEFAULT_MODEL / "clip.mp4", (DEFAULT_MODEL / "question.txt").read_text(encoding="utf-8").strip()
    meta = open_video(Video(str(video)), VIDEO_READERS.build(config.video_reader)).meta
    here = Path.cwd()
    print(f"video:    {video.relative_to(here) if video.is_relative_to(here) else video}")
    print(f"          {meta.width} x {meta.height} pixels, {meta.num_frames} frames, {meta.duration:g} s")
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    assistant = Assistant.from_pretrained(**options, **line.checkpoint_groups(config))
    print(f"question: {question}")
    print(f"answer:   {assistant.ask(str(video), question, **decoding)}")
    print(ONLY_SHAPES)


def run_benchmark(config: DictConfig, line: CommandLine, decoding: dict[str, Any]) -> None:
    """Run or resume a benchmark, and print its report."""
    from tinyvid import EvaluationOptions, build_benchmark, evaluate  # heavy, and a question does not need them

    asked = [key for key in QUESTION if config[key] is not None]
    if asked or config.stream:
        raise ConfigError(f"benchmark= asks its own questions; remove {asked[0] if asked else 'stream'}=")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and not line.chosen("run_dir"):
        raise ConfigError("run_dir= is not set, so each process would use another folder; set run_dir=")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    chosen = {key: settings[key] for key in OPTIONS} | decoding
    options = EvaluationOptions(**check_options(EvaluationOptions, chosen, key="eval.py"))
    cache = CacheOptions(**check_options(CacheOptions, settings["cache"], key="cache"))
    benchmark = build_benchmark(settings["benchmark"])
    judge = JUDGES.build(settings["judge"]) if settings.get("judge") else None
    assistant = load(config, line)
    if cache.features is not None:
        assistant.model.get_submodule("vision_tower").requires_grad_(False)
    attach(cache, assistant.model, assistant.processor, assistant.config)
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    run_dir = HydraConfig.get().runtime.output_dir if is_sweep else settings["run_dir"]
    with interruptible(f"All answers so far are in {run_dir}; to continue, add run_dir={run_dir} to the same command."):
        report = evaluate(
            assistant,
            benchmark,
            run_dir=run_dir,
            options=options,
            judge=judge,
            settings={"ckpt": config.ckpt, "quant": config.quant, "options": settings["benchmark"]}
            | {"model": assistant.config},
            progress=True,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        print(printable(report.text()))


def draw(assistant: Assistant, video: Video, config: DictConfig) -> None:
    """Draw the patches of each frame that the question attended to."""
    found = assistant.attention_map(video, config.question)[0]
    drawn = found.save(config.attention_map)
    print(f"wrote {config.attention_map}: {len(drawn)} of {len(found.frames)} frames", file=sys.stderr)


def video_of(config: DictConfig) -> Video | None:
    """Return the video or image of the command line, with its bounds and frame rate."""
    if config.image is not None:
        if Path(config.image).suffix.lower() not in IMAGES:
            kinds = ", ".join(sorted(IMAGES))
            raise ConfigError(
                f"image={config.image!r} is not an image file ({kinds}); use video= for a video or a folder"
            )
        return Video(config.image)
    if config.video is not None:
        return Video(config.video, start=config.start, end=config.end, fps=config.fps)
    if config.start is not None or config.end is not None or config.fps is not None:
        raise ConfigError("start=, end= and fps= need video=")
    return None


def load(config: DictConfig, line: CommandLine) -> Assistant:
    """Load the checkpoint of the command line, or build the composed model."""
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    if config.ckpt is None:
        print("ckpt= is not set, so the connector of this new model is untrained", file=sys.stderr)
        return Assistant.from_config(config, **options)
    if line.text.get("ckpt") is None:
        print(ONLY_SHAPES, file=sys.stderr)
    return Assistant.from_pretrained(config.ckpt, **options, **line.checkpoint_groups(config))


def convert(config: DictConfig, line: CommandLine) -> None:
    """Write a checkpoint in tinyvid's layout; ``dtype=auto`` keeps its stored dtype."""
    if line.text.get("ckpt") is None:
        raise ConfigError("convert_to= needs ckpt=; set it to the checkpoint to convert")
    if config.dtype == "auto":
        config.dtype = stored_dtype(str(local_folder(config.ckpt)))
    if not config.convert_to:
        raise ConfigError("convert_to= is empty; set it to a directory")
    load(config, line).save_pretrained(config.convert_to)
    print(f"wrote {config.convert_to}")


if __name__ == "__main__":
    main()
