r"""The contracts between parts. Read this file first.

Legend, used in every shape comment of the project:

    B   batch                    D   width of the LLM
    T   frames of a clip         K   video tokens of a clip
    P   patches of a frame       L   length of the sequence
    Dv  width of the tower       S   side of an image, in pixels

The road from a file to an answer::

    Sample --VideoReader.probe, FrameSampler--> indices --length check--> read --ImageSpec--> pixels (T, 3, S, S)
       \--ChatTemplate--> [Segment] --tokenizer, TokenBudget--> input_ids, labels, video_mask (L,)    } Example
    Examples --collate--> Batch --VisionTower--> (T, P, Dv) --Connector--> (K, D) --into the embeddings--> LLM --> reply

A part is chosen by name: ``connector: {name: group, num_queries: 512}`` in YAML is looked up in
``registry.CONNECTORS`` and built by calling the class with those options. Nothing here is inherited from; a class
fulfills a contract by having its members.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from tinyvid.text.frame_text import FrameText
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
    TokenSpec,
    VideoMeta,
    VideoTokens,
)


class Dataset(Protocol):
    """Rows that are read when they are asked for. Holds no open file, so that DataLoader workers can carry it."""

    def __len__(self) -> int:
        """Return the rows of an epoch."""

    def __getitem__(self, index: int) -> Sample:
        """Return a row as a sample.

        Raises:
            DataError: The row is malformed; the message names its place.
        """

    def where(self, index: int) -> str:
        """Return the place of a row, as ``file:line``."""

    def size(self, index: int) -> int:
        """Return a measure of a row's text that costs no reading, such as its bytes."""


class VideoReader(Protocol):
    """Opens video files. Holds no open file between calls, so that DataLoader workers can carry it."""

    name: str  # the library that decodes, recorded with every result

    def probe(self, path: Path) -> VideoMeta:
        """Describe the file without decoding more than one frame.

        Raises:
            VideoError: The file cannot be opened, holds no video, or is cut short.
        """

    def times(self, path: Path) -> np.ndarray:
        """Return when each frame is shown, float64 (num_frames,), in seconds after the first frame.

        Raises:
            VideoError: As ``probe``.
        """

    def read(self, path: Path, indices: Sequence[int]) -> Frames:
        """Decode only the frames asked for.

        Args:
            path: The video file.
            indices: Non-decreasing frame indices in [0, num_frames); an index may repeat.

        Returns:
            The frames in the order of ``indices``, rotation applied.

        Raises:
            VideoError: A frame cannot be decoded.
        """


class FrameSampler(Protocol):
    """Chooses frames from what is known of a clip. Pure: no decoding, no randomness."""

    looks: Literal[False]
    overflow: Overflow  # what happens where its frames do not fit; see ``processing.planner``

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return non-decreasing indices in [0, meta.num_frames), at least one."""


class LookingSampler(Protocol):
    """A sampler that looks before it chooses, and says why. It decodes nothing itself, and keeps no frame."""

    looks: Literal[True]
    overflow: Overflow  # as of ``FrameSampler``

    def __call__(self, meta: VideoMeta, look: Callable[[Sequence[int]], Iterator[np.ndarray]]) -> Choice:
        """Choose; ``look`` yields a small copy of each frame that it is asked for, decoded in turn, uint8 (h, w, 3)."""


class VisionTower(Protocol):
    """An ``nn.Module`` that turns pixels into patch features."""

    image: ImageSpec  # what pixels must look like
    features: FeatureSpec  # what comes out

    @property
    def dtype(self) -> torch.dtype:
        """What pixels must be cast to."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Patches only: no class or register rows."""

    def save(self, directory: Path) -> None:
        """Write configuration and weights so that ``path=directory`` builds the same tower again."""


class Connector(Protocol):
    """An ``nn.Module`` that turns the patch features of one clip into video tokens.

    Built as ``Class(features=FeatureSpec, llm_dim=D, **options)``; one whose signature has ``text_decoder`` is handed
    the text decoder of the configuration, too.
    """

    tokens: TokenSpec  # what it makes of a clip
    text_decoder: "TextDecoder | None"  # what reads the question, where that is a part of its own
    attention: Callable[[Tensor, Question], Tensor] | None  # (T, P, Dv) to how much each patch counts, (T, P)

    @property
    def dtype(self) -> torch.dtype:
        """What features must be cast to."""

    def __call__(
        self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None
    ) -> Tensor | VideoTokens:
        """Map the features of ONE clip to video tokens (K, D), as many as ``tokens.budget`` says.

        Args:
            features: (T, P, Dv), any T >= 1.
            question: What the clip is asked; ``None`` unless ``tokens.reads_question``.
            per_frame: Tokens of a frame, one of ``tokens.smaller``; ``None`` for those of the budget.

        Returns:
            A token for every place of the budget, or ``VideoTokens`` that say which places they fill.
        """


class TextDecoder(Protocol):
    """An ``nn.Module`` that looks at each frame of a clip with a question in mind.

    Built as ``Class(features=FeatureSpec, llm_dim=D, **options)``.
    """

    dim: int  # R, width of a row
    max_length: int  # of a question, in tokens; longer ones lose their beginning
    reads_embeddings: bool  # True: Question.embeddings, in the LLM's tokens; False: Question.ids, in its own tokens
    vocab_size: int | None  # ids it knows, where it reads its own tokens
    pretrained: bool  # True: its weights come from elsewhere, so that training leaves them frozen unless told otherwise

    @property
    def dtype(self) -> torch.dtype:
        """What features and embeddings must be cast to."""

    def __call__(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Return the rows (T, M, R) that a question makes of features (T, P, Dv), and which are real, bool (M,).

        Frames do not see each other, and padding of the question changes no real row.
        """


class ChatTemplate(Protocol):
    """Lays a conversation out as text. Knows no tokenizer."""

    frame: FrameText  # what is written next to the frames of a video
    stop: tuple[str, ...]  # strings that end a reply
    control_tokens: tuple[str, ...]  # strings that the tokenizer must know as single tokens

    def __call__(self, messages: Sequence[Message], *, slots: Sequence[int]) -> list[Segment]:
        """Return the segments of a conversation.

        Args:
            messages: Alternating user and assistant turns, optionally after a system message.
            slots: For each message, how many video slots stand in front of its text.

        Returns:
            Segments in reading order. A reply segment ends with its end marker. When the last message is the
            user's, the last segment is the prompt up to where the reply begins.
        """


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal LLM with its tokenizer.

    Attributes:
        model: A ``transformers`` causal LM in eval mode.
        tokenizer: Its tokenizer.
        max_length: Longest sequence, prompt and reply, in tokens.
    """

    model: Any
    tokenizer: Any
    max_length: int

    @property
    def dim(self) -> int:
        """D, width of the token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])


class LLMBuilder(Protocol):
    """Loads an LLM. The vocabulary is never resized."""

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
