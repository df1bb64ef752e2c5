"""Convert requests of lmms-eval: chat messages to a ``Sample``, and generation options to a ``Generation``.

Unsupported requests are rejected and never approximated: beam search, penalties, audio, and media in the middle of a
text. lmms-eval is not imported here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tinyvid.errors import ConfigError, DataError, suggest
from tinyvid.generation.decode import Decoding
from tinyvid.types import Message, Sample, Video

# lmms-eval's default ``until``, the separator of few-shot examples. It is ignored, because replies may have paragraphs.
SEPARATOR = "\n\n"
# Options that tinyvid does not support, with the values that turn them off; other values are rejected.
OFF: dict[str, tuple[Any, ...]] = {"num_beams": (None, 1), "repetition_penalty": (None, 1)}
WITHOUT_EFFECT = ("image_aspect_ratio",)  # of LLaVA; a checkpoint of tinyvid determines how images are resized
DRAWN = ("max_new_tokens", "temperature", "top_p", "seed")  # options of ``Decoding``
KNOWN = (*DRAWN, "do_sample", "top_k", "until", *OFF, *WITHOUT_EFFECT)


@dataclass(frozen=True, slots=True)
class Generation:
    """Generation options of a request.

    Attributes:
        decoding: How the reply is decoded.
        until: Texts that end a reply, in addition to the end markers of the model's template.
    """

    decoding: Decoding
    until: tuple[str, ...] = ()

    def cut(self, reply: str) -> str:
        """Truncate a reply at the first text of ``until``."""
        places = [reply.index(text) for text in self.until if text in reply]
        return reply[: min(places)].rstrip() if places else reply


def generation_of(options: Mapping[str, Any], *, task: str) -> Generation:
    """Read the generation options of a request.

    Raises:
        ConfigError: An option is unknown, out of range or not supported, or options contradict each other.
    """
    for key, value in options.items():
        if key not in KNOWN:
            raise ConfigError(f"task '{task}': generation option {key}={value!r} is unknown. {suggest(key, KNOWN)}")
        if key in OFF and value not in OFF[key]:
            raise ConfigError(
                f"task '{task}': generation option {key}={value!r} is not supported; use "
                f"--gen_kwargs {key}={OFF[key][-1]} to change the task, and report that with the result"
            )
    until = options.get("until") or []
    texts = [until] if isinstance(until, str) else list(until)
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"task '{task}': generation option until={until!r} must be a text or a list of texts")
    try:
        decoding = Decoding(**_drawn(options))
    except ConfigError as error:
        raise ConfigError(f"task '{task}': generation option {error}") from error
    return Generation(decoding, tuple(text for text in texts if text and text != SEPARATOR))


def _drawn(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``Decoding``. A temperature above 0 samples; ``do_sample`` alone has temperature 1."""
    drawn = {key: options[key] for key in DRAWN if options.get(key) is not None}
    sampled = options.get("do_sample")
    if sampled is not None and bool(drawn.get("temperature", sampled)) != sampled:
        raise ConfigError(
            f"do_sample={sampled!r} contradicts temperature={drawn['temperature']!r}; use --gen_kwargs "
            "temperature=0,do_sample=False for greedy decoding, or a temperature above 0 with do_sample=True"
        )
    if sampled:
        drawn.setdefault("temperature", 1.0)
    if drawn.get("temperature") and options.get("top_k"):
        raise ConfigError(
            f"top_k={options['top_k']!r} is not supported; use --gen_kwargs top_k=0 to change the task, and report "
            "that with the result"
        )
    return drawn if drawn.get("temperature") else {key: drawn[key] for key in drawn if key == "max_new_tokens"}


def names_of(requests: Sequence[tuple[str, int]]) -> list[str]:
    """Return a name for each request, from its task and document number: ``task/3``, and ``task/3#1`` for a repeat.

    Sampled replies depend on the name, so repeats of a document get different replies.
    """
    asked: Counter[str] = Counter()
    names = []
    for task, document in requests:
        name = f"{task}/{document}"
        names.append(f"{name}#{asked[name]}" if asked[name] else name)
        asked[name] += 1
    return names


def sample_of(messages: Sequence[Mapping[str, Any]], *, name: str) -> Sample:
    """Return a conversation as a sample.

    Raises:
        DataError: A part has another type.
    """
    written: list[Message] = []
    videos: list[Video] = []
    for message in messages:
        text, media, places = _parts(message["content"], name)
        written.append(Message(message["role"], text, len(media), places))
        videos += media
    return Sample(written, videos or None, id=name)


def _parts(content: str | Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[Video], tuple[int, ...]]:
    """Return the text of a message, with its parts joined as in chat templates, its media, and their places in it.

    There are no places if all media come before the text.
    """
    if isinstance(content, str):
        return content, [], ()
    text, media, places = "", [], []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            text += part["text"]
        elif kind not in ("image", "video"):
            raise DataError(f"sample '{name}' has a part of type {kind!r}; tinyvid reads text, images and videos")
        else:
            media.append(_video(part, name))
            places.append(len(text))
    return text, media, tuple(places) if any(text[:place].strip() for place in places) else ()


def _video(part: Mapping[str, Any], name: str) -> Video:
    """Return an image or a video, with its bounds in seconds."""
    source, start, end = part.get("url"), part.get("start_time"), part.get("end_time")
    if isinstance(source, Mapping):  # lmms-eval passes videos with bounds in this form
        start, end = source.get("video_start"), source.get("video_end")
        source = source.get("url") or source.get("path") or source.get("video")
    if isinstance(source, Image.Image):
        source = np.asarray(ImageOps.exif_transpose(source).convert("RGB"))[None]  # (1, H, W, 3)
    if not isinstance(source, str | Path | np.ndarray):
        raise DataError(
            f"sample '{name}' has a part of type {part.get('type')!r} that is a {type(source).__name__}; use a file, "
            "a PIL image or a uint8 array (T, H, W, 3)"
        )
    return Video(source, start, end)
