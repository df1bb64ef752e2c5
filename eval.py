"""Ask a video-language model about a video, or run a benchmark; ``python eval.py --help`` lists all options.

The package ``eval/`` next to this file contains the benchmarks; ``import eval`` finds it before this program.
"""

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from tinyvid import JUDGES, VIDEO_READERS, Assistant, ConfigError, DataError, Message, Sample, TinyvidError, Video
from tinyvid.answers import AnswerFile, ClipAnswer, find_clips, read_lines, typed
from tinyvid.caches import CacheOptions, attach
from tinyvid.checkpoints import skills
from tinyvid.checkpoints.hub import DEFAULT, DEFAULT_MODEL, local_folder
from tinyvid.checkpoints.layouts import stored_dtype
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import listed, printable
from tinyvid.files import expanded
from tinyvid.generation.decode import Decoding
from tinyvid.interrupts import interruptible
from tinyvid.registry import check_options
from tinyvid.video.images import IMAGES
from tinyvid.video.open_video import open_video

ONLY_SHAPES = (
    "This is the default model. It only knows moving colored shapes (docs/shapes.md). "
    'Use another model: python eval.py ckpt=DIR video=FILE question="..."'
)
MEDIA = ("video", "videos", "image")
QUESTION = ("question", "questions", *MEDIA, "attention_map", "evidence", "out")  # keys of a question
DECODING = ("max_new_tokens", "temperature", "top_p", "seed")  # options of decoding
OPTIONS = ("limit", "score", "missing", "batch_size", "workers", "judge_cache", "skip_listed")  # options of a benchmark
ONLY_BENCHMARK = ("judge", "run_dir", "cache", *OPTIONS)


def main() -> None:
    """Run the command line; a user error prints one line and exits with status 2."""
    run_hydra(run, config="eval")


def run(config: DictConfig, line: CommandLine) -> None:
    """Convert a checkpoint, run a benchmark or answer a question."""
    for key in ("stream", "chat"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}={config[key]!r} must be true or false")
    skills.chosen(config.adapters, config.adapter)  # before the slow loading of the model
    if config.adapters and (config.convert_to is not None or config.ckpt is None):
        raise ConfigError("adapters.NAME= needs ckpt=, and is not written by convert_to=; remove adapters.NAME=")
    if config.convert_to is not None:
        convert(config, line)
        return
    decoding = asdict(Decoding(**{key: config[key] for key in DECODING}))
    if config.get("benchmark") is not None:
        run_benchmark(config, line, decoding)
        return
    for key in ONLY_BENCHMARK:
        if line.chosen(key) and key != "batch_size":
            raise ConfigError(f"{key}= needs benchmark=NAME")
    ask(config, line, decoding)


def ask(config: DictConfig, line: CommandLine, decoding: dict[str, Any]) -> None:
    """Answer the questions of the command line."""
    if config.ckpt == DEFAULT and not (config.chat or config.adapters) and all(config[k] is None for k in QUESTION):
        demonstrate(config, line, decoding)
        return
    if line.text.get("ckpt") is None and config.ckpt == DEFAULT and all(config[key] is None for key in MEDIA):
        config.video = str(DEFAULT_MODEL / "clip.mp4")
        print(f"video= is not set, so the default model sees its own clip, {config.video}", file=sys.stderr)
    videos, questions = videos_of(config), questions_of(config)
    several = config.out is not None or len(videos) > 1 or len(questions) > 1
    for key in ("stream", "chat", "attention_map", "evidence"):
        if several and config[key]:
            raise ConfigError(f"{key}= needs a single video and question, without out=; remove it")
    if several or config.chat or config.attention_map or config.evidence:
        skills.refuse_several(config.adapters, config.adapter)
    if several:
        ask_all(config, line, videos, questions, decoding)
        return
    for key in ("batch_size", "on_error"):
        if line.chosen(key):
            raise ConfigError(f"{key}= needs several videos or questions, or out=, or benchmark=NAME")
    ask_one(config, line, videos[0], questions, decoding)


def ask_one(
    config: DictConfig, line: CommandLine, video: Video | None, questions: list[str], decoding: dict[str, Any]
) -> None:
    """Answer a single question, or hold a conversation."""
    check_drawings(config, video)
    if video is not None:
        open_video(video, VIDEO_READERS.build(config.video_reader))  # fail before the slow loading of the model
    assistant = load(config, line)
    if config.chat:
        chat(assistant, video, questions, decoding)
        return
    if config.attention_map is not None and video is not None:
        draw(assistant, video, config)
    text, names = "", assistant.adapters.names
    for name in names if len(names) > 1 else [None]:
        with assistant.adapters.using(name) if name else nullcontext():
            print(f"{name}: " if name else "", end="", flush=True)
            text = reply(assistant, [Message("user", questions[0])], video, decoding, stream=config.stream)
    if config.evidence is not None:
        show_evidence(assistant, Sample([Message("user", questions[0])], video=video), text, config)


def check_drawings(config: DictConfig, video: Video | None) -> None:
    """Raise ``ConfigError`` if ``attention_map=`` or ``evidence=`` cannot be drawn."""
    for key in ("attention_map", "evidence"):
        if config[key] is None:
            continue
        if video is None:
            raise ConfigError(f"{key}= needs video= or image=")
        if not expanded(config[key]).parent.is_dir():
            raise ConfigError(f"{key}={config[key]!r}: its folder does not exist; create it, or choose another one")
    if config.evidence is not None and config.chat:
        raise ConfigError("evidence= needs a single question; remove chat=")
    if config.evidence is not None and not config.evidence.lower().endswith(".png"):
        raise ConfigError(f"evidence={config.evidence!r} must end in .png")


def show_evidence(assistant: Assistant, sample: Sample, text: str, config: DictConfig) -> None:
    """Draw the frames that a reply cites."""
    try:
        found = assistant.evidence(sample, text, max_new_tokens=config.max_new_tokens)
    except DataError as error:
        raise DataError(f"evidence={config.evidence} was not written: {error}") from error
    found.save(config.evidence)
    drawn = listed((str(number + 1) for number in found.cited[: len(found.frames)]), 16)
    missing = len(found.cited) - len(found.frames)
    notes = f"; cited but not drawn: {missing}" if missing else ""
    notes += f"; cited but not shown: {found.num_not_shown}" if found.num_not_shown else ""
    print(f"Wrote {config.evidence}: frames {drawn} of {len(found.times)}{notes}", file=sys.stderr)


def reply(
    assistant: Assistant, turns: list[Message], video: Video | None, decoding: dict[str, Any], *, stream: bool
) -> str:
    """Print the reply to a conversation, and return it; of a stream, in the words of the model, which may be steps."""
    sample, text, words = Sample(messages=turns, video=video), "", ""

    def streamed() -> Iterator[str]:
        nonlocal words
        words = yield from assistant.stream(sample, **decoding)

    for piece in streamed() if stream else assistant.answer([sample], **decoding):
        print(printable(piece), end="", flush=True)
        text += piece
    print(flush=True)
    return words if stream else text


def chat(assistant: Assistant, video: Video | None, questions: list[str], decoding: dict[str, Any]) -> None:
    """Hold a conversation about a video until the input ends. On a terminal, an error does not end it."""
    turns: list[Message] = []
    for question in itertools.chain(questions, typed()):
        turns.append(Message("user", question))
        try:
            turns.append(Message("assistant", reply(assistant, turns, video, decoding, stream=True)))
        except DataError as error:
            if not sys.stdin.isatty():
                raise
            turns.pop()
            print(f"{error} (this question is not part of the conversation)", file=sys.stderr)


def ask_all(
    config: DictConfig,
    line: CommandLine,
    videos: Sequence[Video | None],
    questions: list[str],
    decoding: dict[str, Any],
) -> None:
    """Ask every question about every video, and write or print the answers as they come."""
    from tinyvid.evaluation.running.record import fingerprint  # heavy

    file = None if config.out is None else AnswerFile(config.out)
    if videos[0] is not None and config.on_error == "raise":
        open_video(videos[0], VIDEO_READERS.build(config.video_reader))  # fail before the slow loading of the model
    assistant = load(config, line)
    bounds = {key: config[key] for key in ("start", "end", "fps")}
    described = [fingerprint(assistant.model), assistant.config, decoding, bounds, config.quant]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:12]
    before = [] if file is None else file.resume(digest)
    done = {(answer.video, answer.question) for answer in before}
    pairs = {(str(video or ""), question): video for video in videos for question in questions}
    asked = {pair: video for pair, video in pairs.items() if pair not in done}
    samples = [Sample([Message("user", question)], video=video, id=name) for (name, question), video in asked.items()]
    replies = assistant.answer_each(samples, batch_size=config.batch_size, on_error=config.on_error, **decoding)
    failed = 0
    console = Console(stderr=True)
    progress = track(
        replies, "asking", total=len(samples), console=console, transient=True, disable=not console.is_terminal
    )
    for (name, question), found in zip(asked, progress, strict=True):
        error = str(found) if isinstance(found, TinyvidError) else ""
        failed += bool(error)
        if error:
            print(error, file=sys.stderr)  # begins with the video
        if file is not None:
            file.append([ClipAnswer(name, question, "" if error else str(found), error, digest)])
        elif not error:
            print(printable(": ".join([name] * (len(videos) > 1) + [question] * (len(questions) > 1) + [str(found)])))
    counts = f"answers: {len(asked) - failed} new, {len(pairs) - len(asked)} earlier; errors: {failed}"
    if file is None:
        print(counts, file=sys.stderr)
    else:
        print(printable(f"Wrote {config.out} ({counts})"))


def questions_of(config: DictConfig) -> list[str]:
    """Return the questions of the command line."""
    if config.questions is not None:
        if config.question is not None:
            raise ConfigError("question= and questions= are both set; remove one of them")
        return read_lines(config.questions, key="questions")
    if config.question:
        return [config.question]
    if config.chat and config.question is None:
        return []
    raise ConfigError('there is no question to answer; set question="..." (python eval.py --help lists all keys)')


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
    asked += [key for key in ("stream", "chat") if config[key]] + line.chosen("on_error")
    if asked:
        raise ConfigError(f"benchmark= asks its own questions; remove {asked[0]}=")
    skills.refuse_several(config.adapters, config.adapter)
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
    with interruptible(f"All answers so far are kept. To continue, run the same command with run_dir={run_dir}."):
        report = evaluate(
            assistant,
            benchmark,
            run_dir=run_dir,
            options=options,
            judge=judge,
            settings={"ckpt": config.ckpt, "quant": config.quant, "options": settings["benchmark"]}
            | {"model": assistant.config, "adapters": skills.chosen(config.adapters, config.adapter)},
            progress=True,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        print(printable(report.text()))


def draw(assistant: Assistant, video: Video, config: DictConfig) -> None:
    """Draw the patches of each frame that the question attended to."""
    found = assistant.attention_map(video, config.question)[0]
    drawn = found.save(config.attention_map)
    print(f"Wrote {config.attention_map}: {len(drawn)} of {len(found.frames)} frames", file=sys.stderr)


def videos_of(config: DictConfig) -> list[Video | None]:
    """Return the videos or the image of the command line, with bounds and frame rate; one ``None`` without a video."""
    given = [key for key in MEDIA if config[key] is not None]
    if len(given) > 1:
        raise ConfigError(f"{given[0]}= and {given[1]}= are both set; remove one of them")
    bounds = {key: config[key] for key in ("start", "end", "fps")}
    if config.image is not None:
        if Path(config.image).suffix.lower() not in IMAGES:
            kinds = ", ".join(sorted(IMAGES))
            raise ConfigError(
                f"image={config.image!r} is not an image file ({kinds}); use video= for a video or a folder"
            )
        return [Video(config.image)]
    if config.videos is not None:
        return [Video(str(expanded(path)), **bounds) for path in read_lines(config.videos, key="videos")]
    if config.video is not None:
        return [Video(path, **bounds) for path in find_clips(config.video)]
    if any(value is not None for value in bounds.values()):
        raise ConfigError("start=, end= and fps= need video=")
    return [None]


def load(config: DictConfig, line: CommandLine) -> Assistant:
    """Load the checkpoint of the command line, or build the composed model."""
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    if config.ckpt is None:
        print("ckpt= is not set, so the connector of this new model is untrained", file=sys.stderr)
        return Assistant.from_config(config, **options)
    if line.text.get("ckpt") is None:
        print(ONLY_SHAPES, file=sys.stderr)
    assistant = Assistant.from_pretrained(config.ckpt, **options, **line.checkpoint_groups(config))
    skills.add_chosen(assistant.adapters, config.adapters, config.adapter)
    return assistant


def convert(config: DictConfig, line: CommandLine) -> None:
    """Write a checkpoint in tinyvid's layout; ``dtype=auto`` keeps its stored dtype."""
    if line.text.get("ckpt") is None:
        raise ConfigError("convert_to= needs ckpt=; set it to the checkpoint to convert")
    if config.dtype == "auto":
        config.dtype = stored_dtype(str(local_folder(config.ckpt)))
    if not config.convert_to:
        raise ConfigError("convert_to= is empty; set it to a directory")
    load(config, line).save_pretrained(config.convert_to)
    print(f"Wrote {config.convert_to}")


if __name__ == "__main__":
    main()
