"""Build or load a model, save it, and ask it about videos."""

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args, overload

from tinyvid.build import OPTIONAL, build, check
from tinyvid.checkpoints import hub, native, skills
from tinyvid.checkpoints.layouts import reader_of
from tinyvid.checkpoints.native import Loaded
from tinyvid.config import CHANGEABLE, REASONS
from tinyvid.errors import CheckpointError, ConfigError, DataError, TinyvidError, VideoError, raised_as, suggest
from tinyvid.files import refuse_links
from tinyvid.generation.decode import Decoding, replies, stream
from tinyvid.models.attention_map import AttentionMap, attention_maps
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.weights import building_on
from tinyvid.processing.batch import Batch, VideoInput
from tinyvid.processing.evidence import Evidence, evidence
from tinyvid.processing.processor import Processor
from tinyvid.types import Message, Sample, Video, VideoSource

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
Videos = VideoSource | Video | Sequence[VideoSource | Video]


class Assistant:
    """A model, its Processor and the configuration that describes them.

    Example:
        >>> assistant = Assistant.from_pretrained("tests/data/tinyllava_video/group_qwen2", device="cpu")
        >>> reply = assistant.ask("examples/clip.mp4", "What moves?", max_new_tokens=8)
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    @property
    def model(self) -> VideoLLM:
        """The model, on its device, in eval mode."""
        return self.loaded.model

    @property
    def processor(self) -> Processor:
        """The Processor, which turns a ``Sample`` into tensors for the model."""
        return self.loaded.processor

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """The component groups, with every option filled in."""
        return self.loaded.groups

    @property
    def adapters(self) -> skills.Adapters:
        """Adapters of the LLM that were added by name, to choose one per question."""
        return skills.Adapters(self.loaded)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, device: str = "auto", dtype: str = "auto", quant: str = "none"
    ) -> "Assistant":
        """Build a model from a composed configuration, or load its ``ckpt`` if it has one.

        Without ``ckpt`` the connector is new and must be trained before the model is useful.

        Args:
            config: What ``compose`` returns.
            device: ``cuda``, ``cuda:1``, ``mps``, ``cpu`` or ``auto``; ``meta`` builds shapes without weights, to
                count parameters or to use the Processor.
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
            quant: Quantization of the LLM: ``none``, ``nf4`` or ``int8``.

        Raises:
            ConfigError: The configuration is wrong, or its parts differ from those of its ``ckpt``.
            CheckpointError: A part's weights cannot be loaded.
        """
        groups = check(config)
        ckpt = config.get("ckpt")
        if ckpt is not None:
            free: dict[str, Any] = {kind: groups.get(kind) for kind in CHANGEABLE}
            free["llm"] = {"max_length": groups["llm"]["max_length"]}
            loaded = cls.from_pretrained(ckpt, device=device, dtype=dtype, quant=quant, **free)
            other = [k for k in [*groups, *loaded.config] if k != "template" and groups.get(k) != loaded.config.get(k)]
            if other:
                raise ConfigError(
                    f"{other[0]} differs from the one in ckpt={ckpt!r}, which cannot be changed; compose without "
                    "ckpt, or load the checkpoint with Assistant.from_pretrained"
                )
            return loaded
        model, processor, settled = build(groups, device=device, dtype=dtype, quant=quant)
        return cls(Loaded(model, processor, settled, frozenset()))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quant: str = "none",
        **groups: Mapping[str, Any] | None,
    ) -> "Assistant":
        """Load a checkpoint of tinyvid or of another project, such as InternVL or SmolVLM2 (docs/families.md).

        Args:
            path: A directory, or a hub id such as ``Zhang199/TinyLLaVA-Video-Qwen2.5-3B-Group-16-512``. ``None`` or
                ``default`` loads the small model that is included in tinyvid, which was trained only on the shapes
                world of docs/shapes.md.
            revision: Commit, branch or tag on the hub.
            device: See ``from_config``.
            dtype: See ``from_config``.
            quant: See ``from_config``.
            **groups: ``sampler``, ``template``, ``video_reader`` or ``reducer`` groups to use instead of the
                checkpoint's, and ``llm={"max_length": ...}``. ``reducer=None`` removes a reducer.

        Raises:
            CheckpointError: The layout is unknown, or weights are missing, unexpected, or of the wrong shape.
            PluginError: A part needs a plugin that is not installed.
        """
        for kind, group in groups.items():
            if kind not in (*CHANGEABLE, "llm"):
                free = f"only {', '.join(CHANGEABLE)} and llm.max_length can be changed"
                raise ConfigError(f"{kind} is fixed by the checkpoint{REASONS.get(kind, '')}; {free}")
            if not group and kind in OPTIONAL:
                continue
            if not isinstance(group, Mapping):
                raise ConfigError(f"{kind} must be a mapping of options, such as {{'name': ...}}, got {group!r}")
            fixed = [option for option in group if kind == "llm" and option != "max_length"]
            if fixed:  # includes scaled positions, which change what the LLM computes at every length
                raise ConfigError(f"llm.{fixed[0]} is fixed by the checkpoint; only llm.max_length can be changed")
        folder = hub.local_folder(hub.DEFAULT if path is None else str(path), revision)
        with raised_as(CheckpointError, f"{folder} cannot be loaded", "check its files"), building_on(device):
            refuse_links(folder)
            load = reader_of(folder)
            return cls(load(folder, device=device, dtype=dtype, quant=quant, overrides=groups))

    def save_pretrained(self, path: str | Path) -> None:
        """Write a checkpoint directory that ``from_pretrained`` reads. The directory is written atomically.

        Raises:
            CheckpointError: The directory exists and is not empty, or the weights to store are quantized.
        """
        native.save(self.loaded, Path(path))

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        license: str | None = None,
    ) -> str:
        """Write a checkpoint to a repository of the hub, and return the address of the commit.

        The repository and the branch are created if they are missing. Parts of local directories are stored too. After
        an interruption, call it again: what arrived is not sent again.

        Args:
            repo: Hub id, ``owner/name``.
            private: Whether the repository is private; ``None`` keeps that of an existing one.
            revision: Branch to write to; ``None`` for the main one.
            commit_message: First line of the commit.
            license: For the model card, such as ``apache-2.0``.

        Raises:
            ConfigError: ``repo`` is not a hub id, ``revision`` is a commit, or this machine has no token of the hub.
            CheckpointError: The weights to store are quantized, the hub refused, or the connection failed.
        """
        options = {"private": private, "revision": revision, "commit_message": commit_message, "license": license}
        return hub.push_loaded(self.loaded, repo, **options)

    def ask(
        self,
        video: Videos | None,
        question: str,
        *,
        start: float | None = None,
        end: float | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Return the model's reply to a question about a video.

        Args:
            video: A file, an image, a folder of frames (as ``Video(folder, fps=...)``), a uint8 array (T, H, W, 3),
                several of these, or ``None`` for a question without a video.
            question: Any text; ``<time:12.5>`` is a time and ``<frame:12.5>`` a frame, in seconds of the file.
            start: Start of the clip in the video, in seconds.
            end: End of the clip in the video, in seconds.
            max_new_tokens: Longest reply, in tokens.
            temperature: 0 for greedy decoding; above 0, tokens are sampled, and higher values are more random.
            top_p: Sample from the smallest set of tokens with this total probability; 1 keeps all tokens.
            seed: Seed of sampled replies; the same seed gives the same reply.

        Raises:
            ConfigError: An option is out of range.
            VideoError: The video cannot be read.
            DataError: The question, the video tokens and the reply do not fit into the LLM's context.
        """
        sample = Sample([Message("user", question)], video=video, start=start, end=end)
        return self.answer([sample], max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)[0]

    @overload
    def answer(
        self,
        samples: Sequence[Sample],
        *,
        batch_size: int | None = ...,
        on_error: Literal["raise"] = ...,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
    ) -> list[str]: ...

    @overload
    def answer(
        self,
        samples: Sequence[Sample],
        *,
        batch_size: int | None = ...,
        on_error: Literal["skip"],
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
    ) -> list[str | None]: ...

    def answer(
        self,
        samples: Sequence[Sample],
        *,
        batch_size: int | None = None,
        on_error: OnError = "raise",
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Sequence[str | None]:
        """Return the replies to several samples, in order. Other options and errors are those of ``ask``.

        Args:
            samples: The samples. Their number and length do not change the replies.
            batch_size: Samples per batch; ``None`` generates all replies as one batch.
            on_error: ``raise``, or ``skip``: the reply to a sample with a ``VideoError`` or ``DataError`` is ``None``,
                and a warning describes the error.
            max_new_tokens: See ``ask``.
            temperature: See ``ask``.
            top_p: See ``ask``.
            seed: See ``ask``.
        """
        decoding = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        size = len(samples) or 1 if batch_size is None else batch_size
        found: list[str | None] = []
        for number, result in enumerate(self.answer_each(samples, batch_size=size, on_error=on_error, **decoding)):
            if isinstance(result, TinyvidError):
                logger.warning("No reply to sample %d of %d: %s", number + 1, len(samples), result)
            found.append(None if isinstance(result, TinyvidError) else result)
        return found

    def answer_each(
        self, samples: Sequence[Sample], *, batch_size: int, on_error: OnError = "raise", **decoding: Any
    ) -> Iterator[str | TinyvidError]:
        """Yield the replies to several samples in order, batch by batch; with ``skip``, an error instead of a reply.

        Arguments as for ``answer``.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size!r} must be a whole number of at least 1")
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error={on_error!r} is unknown. {suggest(str(on_error), get_args(OnError))}")
        chosen = Decoding(**decoding)
        for start in range(0, len(samples), batch_size):
            yield from self._replies(samples[start : start + batch_size], chosen, on_error)

    def _replies(self, samples: Sequence[Sample], decoding: Decoding, on_error: OnError) -> list[str | TinyvidError]:
        """Return the replies to one batch; with ``skip``, one by one if a sample has an error."""
        try:
            timelines, batch = self._prompts(samples, decoding)
            found = replies(self.model, self.processor, batch, decoding)
            return [*map(self.processor.template.moments.in_seconds, found, timelines)]
        except (VideoError, DataError) as error:
            if on_error == "raise":
                raise
            if len(samples) == 1:
                return [error]
        return [result for sample in samples for result in self._replies([sample], decoding, on_error)]

    def attention_map(
        self, video: Videos, question: str, *, start: float | None = None, end: float | None = None
    ) -> list[AttentionMap]:
        """Return the attention of the question over the patches of each frame, for connectors with a context token.

        Arguments as for ``ask``.

        Returns:
            One map per video; ``AttentionMap.save`` draws it.

        Raises:
            ConfigError: The connector has no context token.
            VideoError: The video cannot be read.
        """
        sample = Sample([Message("user", question)], video=video, start=start, end=end)
        return attention_maps(self.model, self.processor, sample)

    def evidence(self, sample: Sample, reply: str, *, max_new_tokens: int = 128) -> Evidence:
        """Return the frames that a reply to a sample cites, and the times of all shown frames.

        ``reply`` is what ``ask`` or ``answer`` returned for the sample, with the same ``max_new_tokens``.
        ``Evidence.save`` draws the frames.

        Raises:
            DataError: The sample does not have exactly one video, or the reply cites no shown frame and no time.
            VideoError: The video cannot be read.
        """
        return evidence(self.processor, sample, reply, reserve=max_new_tokens)

    def stream(
        self,
        sample: Sample,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Generator[str, None, str]:
        """Yield the reply to a sample piece by piece; the joined pieces equal what ``answer`` returns.

        Closing the iterator early stops the generation. ``yield from`` returns the reply in the words of the model.
        Options and errors are those of ``ask``.
        """
        decoding = Decoding(max_new_tokens, temperature, top_p, seed)
        (timeline,), batch = self._prompts([sample], decoding)
        with closing(stream(self.model, self.processor, batch, decoding)) as pieces:
            return (yield from self.processor.template.moments.stream(pieces, timeline))

    def _prompts(self, samples: Sequence[Sample], decoding: Decoding) -> tuple[list[VideoInput | None], Batch]:
        """Return the timeline of each sample, and the samples as one batch of prompts with room for the replies."""
        examples = [self.processor(sample, reserve=decoding.max_new_tokens) for sample in samples]
        batch = self.processor.collate(examples, padding_side="left")
        return [example.timeline for example in examples], batch.to(self.model.device)
