"""What lmms-eval asks, in tinyvid's terms: chat messages as a ``Sample``, generation options as a ``Generation``.

What tinyvid cannot do as asked is refused rather than done otherwise: sampling, beams, sound, and media in the middle
of a text. lmms-eval is not imported here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tinyvid.errors import ConfigError, DataError, suggest
from tinyvid.types import Message, Sample, Video

DEFAULT_LENGTH = 128  # tokens of a reply, where a task does not say
# lmms-eval puts its separator of few-shot examples here for tasks that name no end; a chat reply may have paragraphs.
SEPARATOR = "\n\n"
# Each option with the values at which replies are greedy; any other asks for what tinyvid does not do.
GREEDY: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 0),
    "do_sample": (None, False),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1),
}
# Without effect on greedy replies; image_aspect_ratio is LLaVA's, a checkpoint of tinyvid fixes how images are resized.
WITHOUT_EFFECT = ("top_p", "top_k", "seed", "image_aspect_ratio")
KNOWN = ("max_new_tokens", "until", *GREEDY, *WITHOUT_EFFECT)


@dataclass(frozen=True, slots=True)
class Generation:
    """How a request is to be replied to.

    Attributes:
        max_new_tokens: Longest reply, in tokens.
        until: Texts that end a reply, besides the ends of the model's template.
    """

    max_new_tokens: int = DEFAULT_LENGTH
    until: tuple[str, ...] = ()

    def cut(self, reply: str) -> str:
        """Return a reply up to the first text that ends it."""
        places = [reply.index(text) for text in self.until if text in reply]
        return reply[: min(places)].rstrip() if places else reply


def generation_of(options: Mapping[str, Any], *, task: str) -> Generation:
    """Read the generation options of a request.

    Args:
        options: ``generation_kwargs`` of the task, changed by ``--gen_kwargs``.
        task: Its name, for messages.

    Raises:
        ConfigError: Something else than greedy decoding is asked for, or an option is unknown.
    """
    for key, value in options.items():
        if key not in KNOWN:
            raise ConfigError(
                f"task '{task}': generation option {key}={value!r} is unknown to tinyvid. {suggest(key, KNOWN)}"
            )
        if key in GREEDY and value not in GREEDY[key]:
            wanted = GREEDY[key][-1]
            raise ConfigError(
                f"task '{task}': generation option {key}={value!r}: tinyvid replies greedily and can do nothing else; "
                f"give --gen_kwargs {key}={wanted} to ask the task so, and say so with its number"
            )
    until = options.get("until") or []
    texts = [until] if isinstance(until, str) else list(until)
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"task '{task}': generation option until={until!r} must be a text or a list of texts")
    length = options.get("max_new_tokens")
    return Generation(
        max_new_tokens=DEFAULT_LENGTH if length is None else length,
        until=tuple(text for text in texts if text and text != SEPARATOR),
    )


def sample_of(messages: Sequence[Mapping[str, Any]], *, name: str) -> Sample:
    """Return a conversation as a sample.

    Args:
        messages: Each with ``role`` and ``content``: a text, or parts of the types ``text``, ``image`` and ``video``.
        name: Of the sample, for messages.

    Raises:
        DataError: A part is of another type, or stands behind a text in its message, where tinyvid shows no videos.
    """
    written: list[Message] = []
    videos: list[Video] = []
    for message in messages:
        text, media = _parts(message["content"], name)
        written.append(Message(message["role"], text, len(media)))
        videos += media
    return Sample(written, videos or None, id=name)


def _parts(content: str | Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[Video]]:
    """Return the text of a message, its parts joined as chat templates join them, and the media in front of it."""
    if isinstance(content, str):
        return content, []
    text, media = "", []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            text += part["text"]
        elif kind not in ("image", "video"):
            raise DataError(f"sample '{name}' has a part of type {kind!r}; tinyvid reads text, images and videos")
        elif text.strip():
            raise DataError(
                f"sample '{name}' has a part of type {kind!r} behind the text {text.strip()[-60:]!r}; tinyvid shows "
                "the images and videos of a message in front of its text, and does not move them there by itself"
            )
        else:
            media.append(_video(part, name))
    return text, media


def _video(part: Mapping[str, Any], name: str) -> Video:
    """Return an image or a video, with its bounds in seconds."""
    source, start, end = part.get("url"), part.get("start_time"), part.get("end_time")
    if isinstance(source, Mapping):  # lmms-eval hands over a video with bounds of its own in this form
        start, end = source.get("video_start"), source.get("video_end")
        source = source.get("url") or source.get("path") or source.get("video")
    if isinstance(source, Image.Image):
        source = np.asarray(ImageOps.exif_transpose(source).convert("RGB"))[None]  # (1, H, W, 3)
    if not isinstance(source, str | Path | np.ndarray):
        raise DataError(
            f"sample '{name}' has a part of type {part.get('type')!r} that is a {type(source).__name__}; tinyvid reads "
            "files, PIL images and uint8 arrays (T, H, W, 3)"
        )
    return Video(source, start, end)
