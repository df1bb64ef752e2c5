r"""The contracts between parts. Read this file first.

Legend, used in every shape comment of the project:

    B   batch                    D   width of the LLM
    T   frames of a clip         K   video tokens of a clip
    P   patches of a frame       L   length of the sequence
    Dv  width of the tower       S   side of an image, in pixels

From a file to a reply::

    Sample --VideoReader.probe, FrameSampler--> indices --length check--> read --ImageSpec--> pixels (T, 3, S, S)
       \--ChatTemplate--> [Segment] --tokenizer, TokenBudget--> input_ids, labels, video_mask (L,)    } Example
    Examples --collate--> Batch --VisionTower--> (T, P, Dv) --Connector--> (K, D) --into the embeddings--> LLM --> reply

A part is chosen by name: ``connector: {name: group, num_queries: 512}`` in YAML is looked up in
``registry.CONNECTORS`` and built by calling the class with those options. A class does not inherit from
these contracts; it fulfills one by having its members.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tinyvid.text.frame_text import FrameText
from tinyvid.text.moments import Moments
from tinyvid.types import (
    Choice,
    FeatureSpec,
    Frames,
    ImageSpec,
    Message,
    Overflow,
    Question,
    Sample,
    Segment,
    TokenBudget,
    TokenSpec,
    VideoMeta,
    VideoTokens,
)


class Dataset(Protocol):
    """Rows that are read on access. Keeps no file open, so it can be sent to DataLoader workers."""

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""

    def __getitem__(self, index: int) -> Sample:
        """Return a row as a sample.

        Raises:
            DataError: The row is malformed; the message gives its location.
        """

    def where(self, index: int) -> str:
        """Return the location of a row, as ``file:line``."""

    def size(self, index: int) -> int:
        """Return the approximate size of a row without reading it, such as its length in bytes."""

    def digest(self) -> str:
        """Return a text that changes with the rows, for a resumed run; empty if the options determine the rows."""


class VideoReader(Protocol):
    """Decodes video files. Keeps no file open between calls, so it can be sent to DataLoader workers."""

    name: str  # the decoding library, recorded with every result

    def probe(self, path: Path) -> VideoMeta:
        """Return the properties of a video file, decoding at most one frame.

        Raises:
            VideoError: The file cannot be opened, contains no video, or is truncated.
        """

    def times(self, path: Path) -> np.ndarray:
        """Return when each frame is shown, float64 (num_frames,), in seconds after the first frame.

        Raises:
            VideoError: As ``probe``.
        """

    def read(self, path: Path, indices: Sequence[int]) -> Frames:
        """Decode the requested frames.

        Args:
            path: The video file.
            indices: Non-decreasing frame indices in [0, num_frames); an index may repeat.

        Returns:
            The frames in the order of ``indices``, rotation applied.

        Raises:
            VideoError: A frame cannot be decoded.
        """


class FrameSampler(Protocol):
    """Chooses frames from the properties of a clip. Pure: no decoding, no randomness."""

    looks: Literal[False]
    overflow: Overflow  # what to do if its frames do not fit; see ``processing.planner``

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one index; indices are non-decreasing and in [0, meta.num_frames)."""


class LookingSampler(Protocol):
    """Chooses frames after looking at some, and gives the reason. It neither decodes nor keeps frames itself."""

    looks: Literal[True]
    overflow: Overflow  # as in ``FrameSampler``

    def __call__(self, meta: VideoMeta, look: Callable[[Sequence[int]], Iterator[np.ndarray]]) -> Choice:
        """Return the chosen frames; ``look`` decodes the given indices one by one, as small uint8 (h, w, 3) frames."""


class VisionTower(Protocol):
    """An ``nn.Module`` that turns pixels into patch features."""

    image: ImageSpec  # its input
    features: FeatureSpec  # its output

    @property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """What maps features (T, P, Dv) to embeddings (T, Dv) that are compared with those of texts, if anything."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that pixels must have."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Patches only, without class or register tokens."""

    def save(self, directory: Path) -> None:
        """Write configuration and weights so that ``path=directory`` builds the same tower again."""


class Motion(Protocol):
    """An ``nn.Module`` that appends channels to the patch features of a clip, which tell how they change over time.

    Built as ``Class(features=FeatureSpec, **options)``. It has no weights. The connector and its parts are built for
    ``features``, and the feature cache stores the features of the vision tower, without these channels.
    """

    features: FeatureSpec  # its output: the grid of the tower, and a larger width
    causal: bool  # whether a clip can be passed in pieces, each with the state that the previous one returned

    def __call__(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Append the channels to a clip, or to the next piece of it.

        Args:
            features: (T, P, Dv) of the vision tower, any T >= 1.
            state: What the call on the previous piece returned; ``None`` for the first piece.

        Returns:
            (T, P, Dv + channels), whose first Dv values are the features, unchanged, and the new state.
        """


class Connector(Protocol):
    """An ``nn.Module`` that turns the patch features of one clip into video tokens.

    Built as ``Class(features=FeatureSpec, llm_dim=D, **options)``. If its signature has ``text_decoder``, it also gets
    that part of the configuration; if it has ``reducer``, a function that builds that part for given ``features``.
    """

    tokens: TokenSpec  # what it returns for a clip, after its reducer
    reducer: "Reducer | None"  # in front of it; the connector then turns every vector into one token
    text_decoder: "TextDecoder | None"  # reads the question, if a separate part does
    attention: Callable[[Tensor, Question], Tensor] | None  # features (T, P, Dv) to patch weights (T, P)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""

    def __call__(
        self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None
    ) -> Tensor | VideoTokens:
        """Map the features of ONE clip to video tokens (K, D); ``tokens.budget`` gives K.

        Args:
            features: (T, P, Dv), any T >= 1.
            question: The question about the clip; ``None`` unless ``tokens.reads_question``.
            per_frame: Tokens per frame, one of ``tokens.smaller``; ``None`` for the budget's.

        Returns:
            A token for every place of the budget, or ``VideoTokens`` with the places that they fill.
        """


class Reducer(Protocol):
    """An ``nn.Module`` that reduces the patch features of a clip to fewer tokens, in front of a pointwise connector.

    Built as ``Class(features=FeatureSpec, **options)``. Its weights are part of the connector.
    """

    budget: TokenBudget  # places of its tokens; ``fixed`` is 0 and ``most`` is None if it is causal
    causal: bool  # whether a clip can be passed in pieces, each with the state that the previous one returned
    positions: Literal["kept", "closed"]  # of tokens after an empty place: unchanged, or as if there were no gap
    weightless: bool  # whether it has no weights, so that it can be added to a trained model or removed
    reads_question: bool  # whether it needs ``question``
    reads_times: bool  # whether it needs ``times``

    def __call__(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Reduce the features of a clip, or of the next piece of it.

        Args:
            features: (T, P, Dv), any T >= 1.
            state: What the call on the previous piece returned; ``None`` for the first piece.
            times: float32 (T,), in seconds of the file; ``None`` unless ``reads_times``.
            question: The question about the clip; ``None`` unless ``reads_question``.

        Returns:
            Tokens (K, Dv), with frames and places counted from the beginning of the piece, and the new state.
        """


@runtime_checkable
class UsesTower(Protocol):
    """A reducer that also needs the vision tower itself."""

    def attach(self, tower: VisionTower, group: Mapping[str, Any]) -> None:
        """Keep what it needs of a vision tower; ``group`` is the configuration of the tower.

        Raises:
            ConfigError: The tower lacks it.
        """


class TextDecoder(Protocol):
    """An ``nn.Module`` that reads each frame of a clip together with a question.

    Built as ``Class(features=FeatureSpec, llm_dim=D, **options)``.
    """

    dim: int  # R, width of a row
    max_length: int  # of a question, in tokens; the beginning of longer ones is cut off
    reads_embeddings: bool  # True: Question.embeddings, in the LLM's tokens; False: Question.ids, in its own tokens
    vocab_size: int | None  # size of its vocabulary, if it reads its own tokens
    pretrained: bool  # True: it has pretrained weights, which stay frozen in training by default

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features and embeddings must have."""

    def __call__(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) and a question to rows (T, M, R) and a mask of real rows, bool (M,).

        Frames are independent of each other, and padding in the question does not change real rows.
        """


class ChatTemplate(Protocol):
    """Writes a conversation as text. It does not use a tokenizer."""

    frame: FrameText  # the text next to the frames of a video
    moments: Moments  # how times and frames are written in texts
    stop: tuple[str, ...]  # strings that end a reply
    control_tokens: tuple[str, ...]  # strings that the tokenizer must know as single tokens

    def __call__(self, messages: Sequence[Message], *, slots: Sequence[int]) -> list[Segment]:
        """Return the segments of a conversation.

        Args:
            messages: Alternating user and assistant turns, optionally after a system message.
            slots: For each message, the number of video slots before its text, or in it as ``Message.places`` says.

        Returns:
            Segments in reading order. A reply segment ends with its end marker; a reply without ``Message.loss`` has
            the same text in a prompt segment. If the last message is the user's, the last segment is the prompt up to
            the reply.
        """


@runtime_checkable
class TokenizerStrings(Protocol):
    """A template whose strings are those of the LLM's tokenizer. It is replaced before any text is written."""

    def settle(self, tokenizer: Any) -> dict[str, Any]:
        """Return the group of a ``ChatTemplate`` that writes what the tokenizer's own chat template does.

        Raises:
            ConfigError: The tokenizer has no chat template, or it cannot be reproduced.
        """


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal LLM with its tokenizer.

    Attributes:
        model: A ``transformers`` causal LM in eval mode.
        tokenizer: Its tokenizer.
        max_length: Maximum sequence length in tokens, prompt and reply together.
    """

    model: Any
    tokenizer: Any
    max_length: int

    @property
    def dim(self) -> int:
        """D, the width of the token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])


class LLMBuilder(Protocol):
    """Loads an LLM. It never resizes the vocabulary."""

    def __call__(
        self,
        *,
        path: str,
        revision: str | None,
        tokenizer: str | None,
        attention: str,
        max_length: int,
        rope_scaling: str,
        rope_factor: float,
        dtype: torch.dtype,
        quant: str,
        device: str,
    ) -> LanguageModel:
        """Load weights and tokenizer from a directory or a hub id."""
