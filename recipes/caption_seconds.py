"""Write a caption of every second of videos: ``python recipes/caption_seconds.py --help`` lists the options.

LLM4VG (arXiv:2312.14206) asks a language model when an event happens, and shows it such captions instead of the video:
``eval.py benchmark=charades_sta benchmark.prompt_style=captions``.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from tinyvid import Assistant, ConfigError, DataError, Message, Sample, Video, VideoError
from tinyvid.answers import find_clips, read_lines
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import printable, raised_as, suggest
from tinyvid.evaluation.running.record import fingerprint
from tinyvid.files import expanded
from tinyvid.interrupts import interruptible
from tinyvid.outputs import cut_torn_line
from tinyvid.protocols import VideoReader
from tinyvid.video.open_video import open_video

BEGINS = b'{"video": '  # of each row


def main(config: DictConfig, line: CommandLine) -> None:
    """Write a row for each video of the command line that has none yet."""
    if not config.out:
        raise ConfigError("out= is missing; give the file to write, as in out=captions.jsonl")
    if config.on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error={config.on_error!r} is unknown. {suggest(config.on_error, ['raise', 'skip'])}")
    out, paths = expanded(config.out), by_name(config)
    assistant = load(config, line)
    asked = {key: config[key] for key in ("question", "max_new_tokens", "quant")}
    described = json.dumps([fingerprint(assistant.model), assistant.config, asked], sort_keys=True, default=str)
    settings = hashlib.sha256(described.encode()).hexdigest()[:12]
    done = resume(out, settings)
    todo = {name: path for name, path in paths.items() if name not in done}
    decoding = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
    console, failed = Console(stderr=True), 0
    progress = track(todo.items(), "captioning", console=console, transient=True, disable=not console.is_terminal)
    with interruptible(f"Finished videos are in {out}; run the same command again to continue."):
        for name, path in progress:
            try:
                samples = seconds_of(path, config.question, assistant.processor.reader)
                captions = assistant.answer(samples, **decoding)
            except (DataError, VideoError) as error:
                if config.on_error == "raise":
                    raise
                failed += 1
                print(printable(str(error)), file=sys.stderr)
                continue
            with raised_as(ConfigError, f"out={str(out)!r}", "choose another file"), out.open("a") as file:
                file.write(json.dumps({"video": name, "captions": captions, "settings": settings}) + "\n")
    counts = f"{len(todo) - failed} new, {len(paths) - len(todo)} earlier, {failed} failed"
    print(printable(f"Wrote {out} (videos: {counts})"))


def by_name(config: DictConfig) -> dict[str, str]:
    """Return the paths of the videos by file name, which identifies a video in the written file.

    Raises:
        ConfigError: There are no videos, or two have the same name.
    """
    if (config.video is None) == (config.videos is None):
        raise ConfigError("set either video= (a file, a folder or a pattern) or videos= (a file with one per line)")
    found = find_clips(config.video) if config.video is not None else read_lines(config.videos, key="videos")
    paths: dict[str, str] = {}
    for path in found:
        if paths.setdefault(Path(path).name, path) != path:
            raise ConfigError(f"{path} and {paths[Path(path).name]} have the same name; rename one of them")
    return paths


def load(config: DictConfig, line: CommandLine) -> Assistant:
    """Load the checkpoint of the command line, or build the composed model."""
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    if config.ckpt is None:
        return Assistant.from_config(config, **options)
    return Assistant.from_pretrained(config.ckpt, **options, **line.checkpoint_groups(config))


def resume(out: Path, settings: str) -> set[str]:
    """Return the names of the videos that a file has rows for, after removing a row that a kill left incomplete.

    Raises:
        ConfigError: The file has other content, or rows with other settings.
    """
    with raised_as(ConfigError, f"out={str(out)!r}", "choose another file"):
        out.parent.mkdir(parents=True, exist_ok=True)
        complete, _, torn = (out.read_bytes() if out.exists() else b"").rpartition(b"\n")
        rows = [json.loads(line) for line in complete.splitlines()]
    if not all(isinstance(row, dict) for row in rows) or not (torn.startswith(BEGINS) or BEGINS.startswith(torn)):
        raise ConfigError(f"out={str(out)!r} is not a file of captions; choose another file")
    if any(row.get("settings") != settings for row in rows):
        raise ConfigError(f"out={str(out)!r} has captions with other settings; choose another file")
    cut_torn_line(out)
    return {row["video"] for row in rows}


def seconds_of(path: str, question: str, reader: VideoReader) -> list[Sample]:
    """Return the question about each second of a video; a last part below half a second belongs to the one before."""
    duration = open_video(Video(path), reader).meta.duration
    last = max(1, math.floor(duration + 0.5)) - 1
    bounds = [*((float(second), second + 1.0) for second in range(last)), (float(last), None)]
    asked = [Message("user", question)]
    return [Sample(asked, Video(path, start=start, end=end), id=f"{path} at {start:g} s") for start, end in bounds]


if __name__ == "__main__":
    run_hydra(main, config="caption_seconds")
