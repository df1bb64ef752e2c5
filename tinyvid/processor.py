"""From a sample to tensors: the one road that training, benchmarks and inference share.

The order is metadata, frame indices, layout, length check, and only then decoding: a sample that does not fit is
refused before a frame is read. Nothing is cut after layout. The Processor holds no model, so DataLoader workers can
carry it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyvid.caches import FeatureCache, FrameCache
from tinyvid.errors import ConfigError, DataError, TinyvidError
from tinyvid.pixels import normalise, resize, to_pixels
from tinyvid.protocols import ChatTemplate, FrameSampler, VideoReader
from tinyvid.types import IGNORE_INDEX, Batch, Example, ImageSpec, Message, Sample, Segment, Slot, TokenBudget, Video
from tinyvid.video import Footage, open_video


class Processor:
    """Turn a sample into an example: choose frames, lay the sequence out, decode.

    Args:
        tokenizer: The LLM's.
        template: How a conversation is written.
        sampler: Which frames are read.
        reader: What reads video files.
        image: What the vision tower wants its pixels to be.
        budget: How many video tokens the connector makes of a clip.
        reads_question: Whether the connector reads the question: then every user turn has its own video slots.
        max_length: Longest sequence, in tokens.

    Attributes:
        frames: Where resized frames are kept, or ``None``.
        features: Where the features of a frozen tower are kept, or ``None``. The Processor only reads them;
            ``VideoLLM.fill_features`` adds to them.
        control_tokens: Strings that no message may contain: whatever the tokenizer treats as special.
        ends: Strings that end the text of a reply.

    Raises:
        ConfigError: The template needs a control token that the tokenizer does not know.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        template: ChatTemplate,
        sampler: FrameSampler,
        reader: VideoReader,
        image: ImageSpec,
        budget: TokenBudget,
        reads_question: bool,
        max_length: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.sampler = sampler
        self.reader = reader
        self.image = image
        self.budget = budget
        self.reads_question = reads_question
        self.max_length = max_length
        self.frames: FrameCache | None = None
        self.features: FeatureCache | None = None
        self.pad_id = _first_set(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in template.control_tokens if token not in vocabulary]
        if missing:
            raise ConfigError(
                f"the template needs the control tokens {missing}, which the tokenizer of this LLM does not have "
                f"(it has {tokenizer.all_special_tokens}); choose another template"
            )
        # Some tokenizers name few of their special tokens: Llama 3's <|eot_id|> is in none of the named roles.
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.control_tokens = added | set(tokenizer.all_special_tokens) | set(template.control_tokens)
        self.ends = (*template.stop, *sorted(self.control_tokens))

    def __call__(self, sample: Sample, *, reserve: int = 0) -> Example:
        """Lay a sample out and decode its frames.

        A conversation that ends with the user's turn becomes a prompt to answer; one that ends with the assistant's
        becomes an example to learn, with labels on the replies and their end markers.

        Args:
            sample: What to process.
            reserve: Tokens to keep free for a reply.

        Raises:
            DataError: The conversation is malformed, or too long for ``max_length``; nothing was decoded.
            VideoError: A video cannot be read.
        """
        with _naming(sample):
            layout = self._lay_out(sample, reserve)
            keys = tuple(map(self._feature_key, sample.videos, layout.footage, layout.indices))
            features = tuple(None if self.features is None else self.features.read(key) for key in keys)
            clips = zip(sample.videos, layout.footage, layout.indices, features, strict=True)
            pixels = [self._pixels(video, shot, chosen) for video, shot, chosen, known in clips if known is None]
        return Example(
            input_ids=layout.input_ids,
            labels=layout.labels,
            video_mask=layout.video_mask,
            pixels=torch.cat(pixels) if pixels else None,  # (sum of T, 3, S, S)
            num_frames=layout.num_frames,
            slots=layout.slots,
            id=sample.id,
            features=features,
            feature_keys=keys,
        )

    def plan(self, sample: Sample, *, reserve: int = 0) -> "Layout":
        """Lay a sample out without decoding: what it will look like, and how long it is. Errors as in a call."""
        with _naming(sample):
            return self._lay_out(sample, reserve)

    def collate(self, examples: Sequence[Example], *, padding_side: str = "right") -> Batch:
        """Pad examples to one length.

        Args:
            examples: At least one; with and without videos may mix.
            padding_side: ``right`` to learn, ``left`` to generate.
        """
        if padding_side not in ("left", "right"):
            raise DataError(f"padding_side={padding_side!r} is unknown; use 'left' or 'right'")
        if not examples:
            raise DataError("a batch needs at least one example")
        length = max(len(e.input_ids) for e in examples)

        def pad(tensors: list[Tensor], value: int | bool) -> Tensor:
            gaps = [length - len(t) for t in tensors]
            return torch.stack(
                [
                    F.pad(t, (gap, 0) if padding_side == "left" else (0, gap), value=value)
                    for t, gap in zip(tensors, gaps, strict=True)
                ]
            )

        slots: list[Slot] = []
        num_frames: list[int] = []
        for example in examples:
            slots += [Slot(len(num_frames) + slot.video, slot.question) for slot in example.slots]
            num_frames += example.num_frames
        pixels = [e.pixels for e in examples if e.pixels is not None]
        return Batch(
            input_ids=pad([e.input_ids for e in examples], self.pad_id),
            labels=pad([e.labels for e in examples], IGNORE_INDEX),
            attention_mask=pad([torch.ones_like(e.input_ids) for e in examples], 0),
            video_mask=pad([e.video_mask for e in examples], False),
            pixels=torch.cat(pixels) if pixels else None,
            num_frames=tuple(num_frames),
            slots=tuple(slots),
            ids=tuple(e.id for e in examples),
            features=tuple(clip for e in examples for clip in e.features or (None,) * len(e.num_frames)),
            feature_keys=tuple(key for e in examples for key in e.feature_keys or (None,) * len(e.num_frames)),
        )

    def reply(self, ids: Tensor) -> str:
        """Return the text of a reply from the ids that the model generated, without its end marker."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        for end in self.ends:
            text = text.partition(end)[0]
        return text.strip()

    def _lay_out(self, sample: Sample, reserve: int) -> "Layout":
        self._refuse_control_tokens(sample.messages)
        footage = tuple(open_video(video, self.reader) for video in sample.videos)
        indices = tuple(tuple(self.sampler(clip.meta)) for clip in footage)
        shown = videos_per_message(sample.messages, len(footage), every_turn=self.reads_question)
        segments = self.template(sample.messages, slots=[len(videos) for videos in shown])
        slots = tuple(
            Slot(video, message.text)
            for message, videos in zip(sample.messages, shown, strict=True)
            for video in videos
        )
        ids: list[int] = self._first_ids()
        labels = [IGNORE_INDEX] * len(ids)
        mask = [False] * len(ids)
        waiting = iter(slots)
        for segment in segments:
            is_video = segment.kind == "video"
            count = self.budget(len(indices[next(waiting).video])) if is_video else 0
            piece = [self.pad_id] * count if is_video else self._tokenize(segment)
            ids += piece
            labels += piece if segment.kind == "reply" else [IGNORE_INDEX] * len(piece)
            mask += [is_video] * len(piece)
        self.check_length(len(ids), sum(mask), reserve)
        tensors = torch.tensor(ids), torch.tensor(labels), torch.tensor(mask, dtype=torch.bool)
        return Layout(*tensors, slots=slots, footage=footage, indices=indices)

    def _tokenize(self, segment: Segment) -> list[int]:
        # Not verbose: it would warn of lengths that it was trained with, which check_length knows better.
        return self.tokenizer(segment.text, add_special_tokens=False, verbose=False).input_ids

    def _first_ids(self) -> list[int]:
        """Return the id that the tokenizer puts in front of a text, if it puts one."""
        first = self.tokenizer("a").input_ids[:1]
        return first if first and first[0] == self.tokenizer.bos_token_id else []

    def fold(self, text: str) -> str:
        """Return a text as the tokenizer sees it: NFKC, say, makes a control token of a look-alike."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend.normalizer.normalize_str(text) if backend is not None and backend.normalizer else text

    def find_control_tokens(self, text: str) -> list[tuple[str, int]]:
        """Return the control tokens that a text would be read to contain, each with the character where it begins."""
        folded = self.fold(text)
        places = {token: text.find(token) if token in text else folded.find(token) for token in self.control_tokens}
        return sorted((token, place) for token, place in places.items() if place >= 0)

    def _refuse_control_tokens(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages):
            for token, place in self.find_control_tokens(message.text):
                raise DataError(
                    f"message {number} ({message.role}) contains the control token {token!r} at character {place}, "
                    "which would be read as an instruction; remove it"
                )

    def check_length(self, length: int, num_video: int, reserve: int = 0) -> None:
        """Raise ``DataError`` when a sequence does not fit ``max_length``.

        Args:
            length: All tokens.
            num_video: Video tokens among them.
            reserve: Tokens to keep free for a reply.
        """
        if length + reserve <= self.max_length:
            return
        reply = f" + {reserve:,} reply" if reserve else ""
        raise DataError(
            f"{num_video:,} video + {length - num_video:,} text{reply} tokens = {length + reserve:,} exceed the limit "
            f"llm.max_length={self.max_length:,}; shorten the text, lower connector.num_queries or the frames of the "
            "sampler (sampler.num_frames, sampler.max_frames), lower max_new_tokens, or raise llm.max_length if the "
            "LLM allows it"
        )

    def _feature_key(self, video: Video, footage: Footage, indices: Sequence[int]) -> str | None:
        if self.features is None:
            return None
        numbers = footage.numbers(indices)
        return self.features.key(video.source, numbers, self.image, self.reader.name, frames=self.frames)

    def _pixels(self, video: Video, footage: Footage, indices: Sequence[int]) -> Tensor:
        """Return the pixels (T, 3, S, S) of a clip, decoded unless its frames are kept."""
        if self.frames is None:
            return to_pixels(footage.read(indices).frames, self.image)
        key = self.frames.key(video.source, footage.numbers(indices), self.image, self.reader.name)
        resized = self.frames.get(key, lambda: resize(footage.read(indices).frames, self.image))
        return normalise(resized, self.image)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A sample laid out, nothing decoded yet; fields as in ``Example``.

    Attributes:
        footage: The sample's videos, opened.
        indices: For each video, the frames that the sampler chose.
    """

    input_ids: Tensor
    labels: Tensor
    video_mask: Tensor
    slots: tuple[Slot, ...]
    footage: tuple[Footage, ...]
    indices: tuple[tuple[int, ...], ...]

    @property
    def num_frames(self) -> tuple[int, ...]:
        """T of each video."""
        return tuple(len(chosen) for chosen in self.indices)


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Put the sample's id in front of an error's message, unless it is there already."""
    try:
        yield
    except TinyvidError as error:
        if not sample.id or sample.id in str(error):
            raise
        raise type(error)(f"sample '{sample.id}': {error}") from error


def videos_per_message(messages: Sequence[Message], num_videos: int, *, every_turn: bool) -> list[list[int]]:
    """Return, for each message, the indices of the videos that stand in front of its text.

    Args:
        messages: The conversation; ``Message.videos`` counts the videos that a user turn introduces.
        num_videos: Videos of the sample.
        every_turn: Show a user turn every video introduced so far, not only the new ones.

    Raises:
        DataError: The counts do not add up to ``num_videos``, or a video stands with another role than the user.
    """
    counts = [message.videos or 0 for message in messages]
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    if all(message.videos is None for message in messages) and users:
        counts[users[0]] = num_videos
    if sum(counts) != num_videos:
        raise DataError(f"the messages show {sum(counts)} videos, the sample has {num_videos}")
    shown: list[list[int]] = []
    seen = 0
    for message, count in zip(messages, counts, strict=True):
        if count and message.role != "user":
            raise DataError(f"a video stands with a message of role '{message.role}'; only user turns show videos")
        first = 0 if every_turn and message.role == "user" else seen
        seen += count
        shown.append(list(range(first, seen)))
    return shown


def _first_set(*values: int | None) -> int:
    return next(value for value in values if value is not None)
