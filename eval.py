"""Ask a video-language model about a video: ``python eval.py --help`` lists what can be chosen."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from tinyvid import Assistant, Message, Sample, Video
from tinyvid.assistant import local_folder
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.compat.tinyllava_video import stored_dtype
from tinyvid.errors import ConfigError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video import IMAGES, open_video

FREE_TEXT = ("ckpt", "video", "image", "question", "convert_to")


def main() -> None:
    """Run the command line; a mistake of the user ends in one readable line and exit status 2."""
    run_hydra(run, config="eval", free_text=FREE_TEXT)


def run(config: DictConfig, line: CommandLine) -> None:
    """Do what the command line asks: convert a checkpoint, or answer a question."""
    text = line.text
    if not isinstance(config.stream, bool):
        raise ConfigError(f"stream={config.stream!r} must be true or false")
    if "convert_to" in text:
        convert(config, line)
        return
    if not text.get("question"):
        raise ConfigError('nothing to answer: give question="..." (python eval.py --help lists all keys)')
    if "video" in text and "image" in text:
        raise ConfigError("video= and image= are both given; keep one")
    sample = Sample(messages=[Message("user", text["question"])], video=video_of(config, text))
    reader = VIDEO_READERS.build(config.video_reader)
    for video in sample.videos:  # a mistake here should not cost the time that loading a model takes
        open_video(video, reader)
    assistant = load(config, line)
    if config.stream:
        for piece in assistant.stream(sample, max_new_tokens=config.max_new_tokens):
            print(piece, end="", flush=True)
        print()
    else:
        print(assistant.answer([sample], max_new_tokens=config.max_new_tokens)[0])


def video_of(config: DictConfig, text: dict[str, str]) -> Video | None:
    """Return the video or image of the command line, with its bounds and frame rate."""
    if "image" in text:
        if Path(text["image"]).suffix.lower() not in IMAGES:
            kinds = ", ".join(sorted(IMAGES))
            raise ConfigError(
                f"image={text['image']!r} is no image file ({kinds}); give video= for a video or a folder"
            )
        return Video(text["image"])
    if "video" in text:
        return Video(text["video"], start=config.start, end=config.end, fps=config.fps)
    if config.start is not None or config.end is not None or config.fps is not None:
        raise ConfigError("start=, end= and fps= need video=")
    return None


def load(config: DictConfig, line: CommandLine) -> Assistant:
    """Load the checkpoint of the command line, or build the model that it composes."""
    options = {"device": config.device, "dtype": config.dtype, "quant": config.quant}
    if "ckpt" not in line.text:
        print("ckpt= is not given: the connector of this new model is untrained", file=sys.stderr)
        return Assistant.from_config(config, **options)
    return Assistant.from_pretrained(line.text["ckpt"], **options, **line.checkpoint_groups(config))


def convert(config: DictConfig, line: CommandLine) -> None:
    """Write a checkpoint in tinyvid's layout, in the precision it is stored in unless ``dtype=`` says otherwise."""
    if "ckpt" not in line.text:
        raise ConfigError("convert_to= needs ckpt=, the checkpoint to convert")
    if config.dtype == "auto":
        config.dtype = stored_dtype(str(local_folder(line.text["ckpt"])))
    if not line.text["convert_to"]:
        raise ConfigError("convert_to= is empty; name a directory to write")
    load(config, line).save_pretrained(line.text["convert_to"])
    print(f"wrote {line.text['convert_to']}")


if __name__ == "__main__":
    main()
