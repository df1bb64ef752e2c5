"""Ask a video-language model about a video: ``python eval.py --help`` lists what can be chosen."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from tinyvid import Assistant, Message, Sample, TinyvidError, Video, compose
from tinyvid.compat.tinyllava_video import stored_dtype
from tinyvid.config import CONF_DIR
from tinyvid.errors import ConfigError
from tinyvid.video import IMAGES

# Free text breaks Hydra's grammar (quotes, commas, brackets, '='), so Hydra never sees the values of these keys.
FREE_TEXT = ("ckpt", "video", "image", "question", "convert_to")
FIXED_BY_CHECKPOINT = ("llm", "vision_tower", "connector", "model", "experiment")
CHANGEABLE = ("sampler", "template", "video_reader")


@dataclass
class CommandLine:
    """The arguments, split into free text, Hydra's overrides and Hydra's flags."""

    text: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "CommandLine":
        """Split ``arguments``; everything from the first flag's value on that has no ``=`` belongs to the flags."""
        line = cls()
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if equals and key in FREE_TEXT:
                line.text[key] = value
            elif equals and not argument.startswith("-"):
                line.overrides.append(argument)
            else:
                line.flags.append(argument)
        return line

    def chosen(self, group: str) -> list[str]:
        """Return the overrides that choose ``group`` or set one of its keys."""
        keys = [override.partition("=")[0].lstrip("+~") for override in self.overrides]
        return [key for key in keys if key == group or key.startswith(f"{group}.")]


def main() -> None:
    """Run the command line; a mistake of the user ends in one readable line and exit status 2."""
    line = CommandLine.parse(sys.argv[1:])

    def task(config: DictConfig) -> None:
        with readable_errors():
            run(config, line)

    with readable_errors():
        compose(line.overrides)  # for its messages, which name the nearest key; Hydra composes again below
    sys.argv[1:] = line.overrides + line.flags
    hydra.main(config_path=str(CONF_DIR), config_name="eval", version_base="1.3")(task)()


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn an error that tinyvid raises on purpose into its message and exit status 2."""
    try:
        yield
    except TinyvidError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def run(config: DictConfig, line: CommandLine) -> None:
    """Do what the command line asks: convert a checkpoint, or answer a question."""
    text = line.text
    if "convert_to" in text:
        convert(config, line)
        return
    if not text.get("question"):
        raise ConfigError('nothing to answer: give question="..." (python eval.py --help lists all keys)')
    if "video" in text and "image" in text:
        raise ConfigError("video= and image= are both given; keep one")
    sample = Sample(messages=[Message("user", text["question"])], video=video_of(config, text))
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
    for group in FIXED_BY_CHECKPOINT:
        for key in line.chosen(group):
            raise ConfigError(f"{key} is fixed by ckpt={line.text['ckpt']!r}; only {', '.join(CHANGEABLE)} can change")
    groups = {group: changes(config, line, group) for group in CHANGEABLE if line.chosen(group)}
    return Assistant.from_pretrained(line.text["ckpt"], **options, **groups)


def changes(config: DictConfig, line: CommandLine, group: str) -> dict[str, Any]:
    """Return the whole group if the command line chooses it, else only the keys that it sets."""
    chosen = line.chosen(group)
    values = OmegaConf.to_container(config[group], resolve=True)
    if group in chosen:
        return values
    return {key.partition(".")[2]: values[key.partition(".")[2]] for key in chosen}


def convert(config: DictConfig, line: CommandLine) -> None:
    """Write a checkpoint in tinyvid's layout, in the precision it is stored in unless ``dtype=`` says otherwise."""
    if "ckpt" not in line.text:
        raise ConfigError("convert_to= needs ckpt=, the checkpoint to convert")
    if config.dtype == "auto":
        config.dtype = stored_dtype(line.text["ckpt"])
    load(config, line).save_pretrained(line.text["convert_to"])
    print(f"wrote {line.text['convert_to']}")


if __name__ == "__main__":
    main()
