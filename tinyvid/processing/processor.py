"""Convert samples to tensors. Training, benchmarks and inference share this code.

The steps are metadata, frame indices, layout, length check and decoding, so a sample that does not fit raises an error
before a frame is read. Nothing is truncated after the layout. The Processor contains no model, so it can be sent to
DataLoader workers.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinyvid.caches import FeatureCache, FrameCache
from tinyvid.errors import ConfigError, DataError, TinyvidError, raised_as
from tinyvid.processing.batch import Batch, Example, VideoInput
from tinyvid.processing.collate import collate
from tinyvid.processing.layout import (
    Layout,
    Piece,
    check_prefix,
    check_style,
    cues_of,
    joined,
    packed,
    pieces_of,
    runs_of,
    same_videos,
    videos_per_message,
    with_headings,
    with_moments,
)
from tinyvid.processing.planner import Plans, VideoPlan, fit
from tinyvid.protocols import ChatTemplate, FrameSampler, LookingSampler, VideoReader
from tinyvid.text.questions import QuestionReader
from tinyvid.types import Cue, ImageSpec, Message, Sample, Slot, TokenSpec, Video
from tinyvid.video.lazy_pixels import LazyPixels
from tinyvid.video.open_video import Clip, open_video
from tinyvid.video.pixels import normalize, resize, to_pixels

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 33  # of the pixels of a clip that cannot be decoded lazily: 14,266 frames of 224 pixels
LAZY_BYTES = 1 << 27  # 222 frames of 224 pixels, 75 of 384


class Processor:
    """Convert a sample to an example: choose frames, lay out the sequence, decode the frames.

    Args:
        tokenizer: The tokenizer of the LLM.
        template: Writes conversations.
        sampler: Chooses frames.
        reader: Decodes video files.
        image: The input that the vision tower expects.
        tokens: What the connector returns for a clip. If it accepts clips in pieces, long clips are decoded lazily.
        max_length: Maximum sequence length, in tokens.
        questions: Tokenizes questions for the connector's text decoder, if it has one.

    Attributes:
        lazy_bytes: Size of the pixels above which a clip is decoded lazily, without caching frames or features.
        frames: Cache of resized frames, or ``None``.
        features: Cache of the features of a frozen tower, or ``None``. The Processor only reads it;
            ``VideoLLM.fill_features`` writes it.
        control_tokens: Strings that messages must not contain: all special tokens, except times of the template.
        ends: Strings that end a reply.

    Raises:
        ConfigError: The tokenizer does not have a control token of the template, or the template puts text between
            frames and the connector does not support it, or the tokenizer cannot write the times of the template.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        template: ChatTemplate,
        sampler: FrameSampler | LookingSampler,
        reader: VideoReader,
        image: ImageSpec,
        tokens: TokenSpec,
        max_length: int,
        questions: QuestionReader | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.sampler = sampler
        self.reader = reader
        self.image = image
        self.tokens = tokens
        self.max_length = max_length
        self.questions = questions
        self.lazy_bytes = LAZY_BYTES
        check_style(template.frame, tokens.budget)
        self.frames: FrameCache | None = None
        self.features: FeatureCache | None = None
        self.pad_id = _first_set(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in template.control_tokens if token not in vocabulary]
        if missing:
            raise ConfigError(
                f"the template needs the control tokens {missing}, but the tokenizer of this LLM has only "
                f"{tokenizer.all_special_tokens}; choose another template"
            )
        # all_special_tokens can be incomplete: it does not contain Llama 3's <|eot_id|>.
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = added | set(tokenizer.all_special_tokens) | set(template.control_tokens)
        self.control_tokens = special.difference(template.moments.words, [""])
        self.ends = (*template.stop, *sorted(self.control_tokens))
        self._fault_of_times = template.moments.fault(tokenizer, self.ends)
        if template.moments.steps or template.frame.shows_moments:
            self._refuse_times()

    def __call__(self, sample: Sample, *, reserve: int = 0) -> Example:
        """Lay out a sample and decode its frames.

        A conversation that ends with a user turn becomes a prompt. One that ends with an assistant turn becomes a
        training example, with labels on the replies and their end markers.

        Args:
            sample: The sample to process.
            reserve: Number of tokens to reserve for a reply.

        Raises:
            DataError: The conversation is malformed, or too long for ``max_length``; nothing was decoded.
            VideoError: A video cannot be read.
        """
        with _naming(sample):
            return self._decode(sample, self._lay_out(sample, reserve))

    def pack(self, samples: Sequence[Sample]) -> Example:
        """Pack several samples about the same videos into one training example, which contains the videos once.

        The sequence is the shared prefix, up to the last video, and then the rest of each sample. A sample attends to
        the prefix and itself, at the positions that it would have alone. The loss is that of the separate samples, but
        the videos go through the connector and the LLM only once.

        Args:
            samples: At least one. The id of the example joins their ids.

        Raises:
            ConfigError: The connector reads the question, so the video tokens of questions differ.
            DataError: The samples differ in videos or in the text before them, or a sample is invalid.
            VideoError: A video cannot be read.
        """
        with _naming(samples[0]):
            return self._decode(samples[0], self.plan_pack(samples), id="+".join(sample.id for sample in samples))

    def _decode(self, sample: Sample, layout: Layout, id: str | None = None) -> Example:
        videos = tuple(map(self.video, sample.videos, layout.clips, layout.indices))
        return replace(layout.without_videos(sample.id if id is None else id), videos=videos)

    def video(self, video: Video, clip: Clip, indices: tuple[int, ...]) -> VideoInput:
        """Return frames of an opened video, in any order: cached features, lazy or decoded pixels; see ``__call__``."""
        known = VideoInput(
            clip.start, clip.end, tuple(clip.times(indices)), key=self._feature_key(video, clip, indices)
        )
        features = None if self.features is None else self.features.read(known.key)
        if features is not None:
            return replace(known, features=features)
        lazy = LazyPixels(video, indices, self.reader, self.image)
        if self.tokens.in_pieces and lazy.nbytes > self.lazy_bytes:
            return replace(known, lazy=lazy)
        if lazy.nbytes > MAX_BYTES:
            raise DataError(
                f"the {len(indices):,} frames of a video have {lazy.nbytes:,} bytes of pixels, and at most "
                f"{MAX_BYTES:,} are read; choose fewer frames with sampler.num_frames or sampler.max_frames"
            )
        return replace(known, pixels=self._pixels(video, clip, indices))

    def plan(self, sample: Sample, *, reserve: int = 0) -> Layout:
        """Lay out a sample without decoding it, and check its length. Errors as in ``__call__``."""
        with _naming(sample):
            return self._lay_out(sample, reserve)

    def plan_pack(self, samples: Sequence[Sample]) -> Layout:
        """Lay out packed samples without decoding them. Errors as in ``pack``."""
        if self.tokens.reads_question:
            raise ConfigError(
                "this connector reads the question, so packed questions cannot share video tokens; set recipe.pack=1"
            )
        if not samples:
            raise DataError("a packed example needs at least one sample")
        layouts: list[Layout] = []
        for sample in samples:
            with _naming(sample):
                same = same_videos(sample, samples[0])
                layouts.append(self._lay_out(sample, 0, layouts[0] if layouts and same else None))
                check_prefix(layouts[-1], layouts[0])
        return packed(layouts)

    def collate(self, examples: Sequence[Example], *, padding_side: str = "right") -> Batch:
        """Pad examples to one length; see ``tinyvid.processing.collate``."""
        return collate(examples, pad_id=self.pad_id, padding_side=padding_side)

    def reply(self, ids: Tensor) -> str:
        """Decode the ids of a generated reply to text, without its end marker."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        for end in self.ends:
            text = text.partition(end)[0]
        return text.strip()

    def read_moments(self, reply: str, video: VideoInput | None) -> str:
        """Return a reply with markers instead of the times and frames in it; see ``Moments.read``.

        Args:
            reply: The reply in the words of the model.
            video: The video of the sample, or ``Example.timeline``; with ``None``, the reply stays as it is.
        """
        return reply if video is None else self.template.moments.read(reply, video)

    def _lay_out(self, sample: Sample, reserve: int, known: Layout | None = None) -> Layout:
        """Lay out a sample; ``known`` is the layout of another sample with the same videos."""
        self._refuse_control_tokens(sample.messages)
        clips = known.clips if known else tuple(open_video(video, self.reader) for video in sample.videos)
        cues = [cues_of(video, self.template.frame) for video in sample.videos]
        for subtitles in cues:
            self._refuse_control_tokens(subtitles)
        plans = known.plans if known else tuple(map(self._choose, clips))
        layout = self._typeset(sample, clips, plans, cues)
        room = self.max_length - reserve
        overflow = self.sampler.overflow
        if layout.length > room and overflow != "refuse" and not known:

            def fits(plans: Plans) -> bool:
                return self._typeset(sample, clips, plans, cues).length <= room

            fitting = fit(plans, fits=fits, overflow=overflow, smaller=self.tokens.smaller)
            if fitting is not None:
                layout = self._typeset(sample, clips, fitting, cues)
                logger.info(
                    "Sample '%s' was reduced to fit in %d tokens: %s", sample.id, room, "; ".join(map(str, fitting))
                )
        self.check_length(layout.length, layout.num_video, reserve)
        return layout

    def _choose(self, clip: Clip) -> VideoPlan:
        """Return the plan with all frames that the sampler chooses."""
        if self.sampler.looks:
            choice = self.sampler(clip.meta, clip.look)
            indices, reason = tuple(choice.indices), choice.reason
        else:
            indices, reason = tuple(self.sampler(clip.meta)), ""
        return VideoPlan(indices, len(indices), clip.meta.duration, self.tokens.planned, reason)

    def _typeset(self, sample: Sample, clips: Sequence[Clip], plans: Plans, cues: Sequence[Sequence[Cue]]) -> Layout:
        """Lay out a sample with the given plans, without checking its length."""
        messages = with_moments(sample.messages, clips, plans, self.template.moments)
        if self._fault_of_times and messages != list(sample.messages):
            self._refuse_times()
        shown = videos_per_message(messages, len(clips), every_turn=self.tokens.reads_question)
        segments = self.template(messages, slots=[len(videos) for videos in shown])
        asked = [plan.budget.per_frame if plan.budget != self.tokens.planned else None for plan in plans]
        slots = tuple(
            Slot(video, message.text, self.questions(message.text) if self.questions else (), asked[video])
            for message, videos in zip(messages, shown, strict=True)
            for video in videos
        )
        described = zip(sample.videos, clips, plans, cues, strict=True)
        runs = {number: runs_of(*parts, self.template) for number, parts in enumerate(described)}
        segments, runs = with_headings(segments, slots, runs, plans, self.template.frame)
        pieces = [Piece(self._first_ids()), *pieces_of(segments, slots, runs, plans, self._tokenize)]
        return Layout(*joined(pieces, self.pad_id), slots=slots, clips=tuple(clips), plans=plans)

    def _refuse_times(self) -> None:
        if self._fault_of_times:
            style = self.template.moments.style
            raise ConfigError(f"template.time={style!r} cannot be used: {self._fault_of_times}; choose another style")

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        with raised_as(DataError, "the text cannot be tokenized", "check the text and the tokenizer of the checkpoint"):
            # verbose=False: check_length reports sequences that are too long.
            return self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids

    def _first_ids(self) -> list[int]:
        """Return the id of the beginning-of-sequence token, if the tokenizer adds one."""
        first = self.tokenizer("a").input_ids[:1]
        return first if first and first[0] == self.tokenizer.bos_token_id else []

    def fold(self, text: str) -> str:
        """Normalize a text like the tokenizer, which can turn look-alike characters into a control token (NFKC)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend.normalizer.normalize_str(text) if backend is not None and backend.normalizer else text

    def find_control_tokens(self, text: str) -> list[tuple[str, int]]:
        """Return the control tokens that the tokenizer would find in a text, with their character offsets."""
        folded = self.fold(text)
        places = {token: text.find(token) if token in text else folded.find(token) for token in self.control_tokens}
        return sorted((token, place) for token, place in places.items() if place >= 0)

    def _refuse_control_tokens(self, texts: Sequence[Message | Cue]) -> None:
        for number, item in enumerate(texts):
            for token, place in self.find_control_tokens(item.text):
                what = f"message {number} ({item.role})" if isinstance(item, Message) else f"subtitle {number}"
                raise DataError(
                    f"{what} contains the control token {token!r} at character {place}, "
                    "which the model would read as markup; remove it"
                )

    def check_length(self, length: int, num_video: int, reserve: int = 0) -> None:
        """Raise ``DataError`` if ``length`` tokens plus ``reserve`` for a reply exceed ``max_length``."""
        if length + reserve <= self.max_length:
            return
        reply = f" + {reserve:,} reply" if reserve else ""
        closed = "set reducer.positions=closed, " if self.tokens.kept_positions else ""  # without empty places
        queries = "connector.num_queries or " if self.tokens.budget.fixed and not self.tokens.budget.per_frame else ""
        raise DataError(
            f"{num_video:,} video + {length - num_video:,} text{reply} tokens = {length + reserve:,} exceed the limit "
            f"llm.max_length={self.max_length:,}; shorten the text, {closed}lower {queries}the frames of the sampler "
            "(sampler.num_frames, sampler.max_frames), lower max_new_tokens, or raise llm.max_length if the LLM allows "
            "it"
        )

    def _feature_key(self, video: Video, clip: Clip, indices: Sequence[int]) -> str | None:
        if self.features is None:
            return None
        numbers = clip.numbers(indices)
        return self.features.key(video.source, numbers, self.image, self.reader.name, frames=self.frames)

    def _pixels(self, video: Video, clip: Clip, indices: Sequence[int]) -> Tensor:
        """Return the pixels (T, 3, S, S) of a clip, from the frame cache or decoded."""
        if self.frames is None:
            return torch.cat([to_pixels(piece.frames, self.image) for piece in clip.pieces(indices)])
        key = self.frames.key(video.source, clip.numbers(indices), self.image, self.reader.name)

        def decoded() -> np.ndarray:
            return np.concatenate([resize(piece.frames, self.image) for piece in clip.pieces(indices)])

        return normalize(self.frames.get(key, decoded), self.image)


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Add the sample's id to the beginning of an error message that does not contain it."""
    try:
        yield
    except TinyvidError as error:
        if not sample.id or sample.id in str(error):
            raise
        raise type(error)(f"sample '{sample.id}': {error}") from error


def _first_set(*values: int | None) -> int:
    return next(value for value in values if value is not None)
