"""The four verbs: compose a model or load one, save it, and ask it about a video."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from tinyvid.build import build, check
from tinyvid.checkpoints import native
from tinyvid.checkpoints.compat import llama_vid, tinyllava_video
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.models.attention_map import AttentionMap, attention_maps
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.weights import building_on
from tinyvid.processing.processor import Processor
from tinyvid.types import Message, Sample, Video, VideoSource

logger = logging.getLogger(__name__)

DEFAULT_MODEL = Path(__file__).parent / "assets" / "shapes"  # made by recipes/shapes
DEFAULT = "default"  # its name where a path is asked for
HUB_FILES = ["*.safetensors", "*.json", "*.yaml", "*.txt", "*.model", "*.bin"]
VideoInput = VideoSource | Video | Sequence[VideoSource | Video]


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
        """What turns a ``Sample`` into tensors for the model."""
        return self.loaded.processor

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """The component groups, every option filled in."""
        return self.loaded.groups

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, device: str = "auto", dtype: str = "auto", quant: str = "none"
    ) -> "Assistant":
        """Build a model from a composed configuration. Its connector is new and knows nothing until trained.

        Args:
            config: What ``compose`` returns.
            device: ``cuda``, ``cuda:1``, ``mps``, ``cpu`` or ``auto``; ``meta`` for a model of shapes alone, without
                weights, whose Processor works and which can be counted.
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
            quant: Weights of the LLM: ``none``, ``nf4`` or ``int8``.

        Raises:
            ConfigError: The configuration is wrong; no weight was loaded.
            CheckpointError: A part's weights cannot be loaded.
        """
        groups = check(config)
        model, processor = build(groups, device=device, dtype=dtype, quant=quant)
        return cls(Loaded(model, processor, groups, frozenset()))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quant: str = "none",
        **groups: Mapping[str, Any],
    ) -> "Assistant":
        """Load a checkpoint of tinyvid, or one of TinyLLaVA-Video in any of its layouts.

        Args:
            path: A directory, or a hub id such as ``Zhang199/TinyLLaVA-Video-Qwen2.5-3B-Group-16-512``. Without one,
                or with ``default``, the small model that comes with tinyvid, which knows only the shapes world of
                docs/shapes.md.
            revision: Commit, branch or tag on the hub.
            device: See ``from_config``.
            dtype: See ``from_config``.
            quant: See ``from_config``.
            **groups: ``sampler``, ``template`` or ``video_reader`` groups to use instead of the checkpoint's, and
                ``llm={"max_length": ...}``.

        Raises:
            CheckpointError: The layout is unknown, or weights are missing, left over, or of the wrong shape.
            PluginError: A part comes from a plugin that is not installed.
        """
        for kind, group in groups.items():
            if kind not in ("sampler", "template", "video_reader", "llm"):
                raise ConfigError(
                    f"{kind} is fixed by the checkpoint; only sampler, template, video_reader and llm.max_length can "
                    "change"
                )
            if not isinstance(group, Mapping):
                raise ConfigError(f"{kind} must be a mapping of options, such as {{'name': ...}}, got {group!r}")
            fixed = [option for option in group if kind == "llm" and option != "max_length"]
            if fixed:  # scaled positions, too: they change what the LLM computes at every length
                raise ConfigError(f"llm.{fixed[0]} is fixed by the checkpoint; of the llm only max_length can change")
        folder = local_folder(DEFAULT if path is None else str(path), revision)
        if (folder / native.MANIFEST).is_file():
            load = native.load
        elif tinyllava_video.recognizes(folder):
            load = tinyllava_video.load
        elif llama_vid.recognizes(folder):
            load = llama_vid.load
        else:
            found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise CheckpointError(
                f"{folder} is no checkpoint that tinyvid knows: it holds {found}; expected {native.MANIFEST} "
                "(tinyvid) or a config.json of model_type 'tinyllava' (TinyLLaVA-Video)"
            )
        with building_on(device):
            return cls(load(folder, device=device, dtype=dtype, quant=quant, overrides=groups))

    def save_pretrained(self, path: str | Path) -> None:
        """Write a checkpoint directory, whole or not at all, that ``from_pretrained`` reads.

        Raises:
            CheckpointError: The directory exists and is not empty, or weights to be stored are quantized.
        """
        native.save(self.loaded, Path(path))

    def ask(
        self,
        video: VideoInput | None,
        question: str,
        *,
        start: float | None = None,
        end: float | None = None,
        max_new_tokens: int = 128,
    ) -> str:
        """Return the model's reply to a question about a video.

        Args:
            video: A file, an image, a folder of frames (as ``Video(folder, fps=...)``), a uint8 array (T, H, W, 3),
                several of these, or ``None`` for a question without a video.
            question: Any text.
            start: First second to look at.
            end: Last second to look at.
            max_new_tokens: Longest reply, in tokens.

        Raises:
            VideoError: The video cannot be read.
            DataError: Question, video tokens and reply do not fit the LLM's context.
        """
        sample = Sample(messages=[Message("user", question)], video=video, start=start, end=end)
        return self.answer([sample], max_new_tokens=max_new_tokens)[0]

    def answer(self, samples: Sequence[Sample], *, max_new_tokens: int = 128) -> list[str]:
        """Return the replies to several samples, generated as one batch. Greedy, so the same input replies the same."""
        options = self.generation(max_new_tokens)
        examples = [self.processor(sample, reserve=max_new_tokens) for sample in samples]
        batch = self.processor.collate(examples, padding_side="left").to(self.model.device)
        return [self.processor.reply(ids) for ids in self.model.generate(batch, **options)]

    def attention_map(
        self, video: VideoInput, question: str, *, start: float | None = None, end: float | None = None
    ) -> list[AttentionMap]:
        """Return which patches of each frame a question looked at, for connectors with a context token.

        Args:
            video: As for ``ask``.
            question: Any text.
            start: First second to look at.
            end: Last second to look at.

        Returns:
            One map per video; ``save`` draws it.

        Raises:
            ConfigError: The connector has no context token.
            VideoError: The video cannot be read.
        """
        sample = Sample(messages=[Message("user", question)], video=video, start=start, end=end)
        return attention_maps(self.model, self.processor, sample)

    def stream(self, sample: Sample, *, max_new_tokens: int = 128) -> Iterator[str]:
        """Yield the reply to a sample in pieces, as the model writes it; joined, they equal what ``answer`` returns.

        Closing the iterator early stops the generation.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        options = self.generation(max_new_tokens)
        example = self.processor(sample, reserve=max_new_tokens)
        batch = self.processor.collate([example], padding_side="left").to(self.model.device)
        streamer = TextIteratorStreamer(self.processor.tokenizer)
        closed = False
        failure: list[BaseException] = []

        def work() -> None:
            stopping = StoppingCriteriaList([lambda ids, _: ids.new_full((len(ids),), closed).bool()])
            try:
                self.model.generate(batch, streamer=streamer, stopping_criteria=stopping, **options)
            except BaseException as error:  # raised again below, in the caller's thread
                failure.append(error)
                streamer.end()

        worker = Thread(target=work, daemon=True)
        worker.start()
        try:
            yield from self._trimmed(streamer)
        finally:
            closed = True
            worker.join()
        if failure:
            raise failure[0]

    def _trimmed(self, pieces: Iterator[str]) -> Iterator[str]:
        """Drop the white space and the end markers around a reply that arrives in pieces."""
        held, begun = "", False
        for piece in pieces:
            held += piece if begun else piece.lstrip()
            begun = begun or bool(held)
            first = min((held.index(end) for end in self.processor.ends if end in held), default=None)
            if first is not None:
                yield held[:first].rstrip()
                return
            # The tail may turn out to be trailing space or the beginning of an end marker.
            starts = [end[:n] for end in self.processor.ends for n in range(1, len(end))]
            keep = max((len(start) for start in starts if held.endswith(start)), default=0)
            cut = len(held[: len(held) - keep].rstrip())
            yield held[:cut]
            held = held[cut:]
        yield held.rstrip()

    def generation(self, max_new_tokens: int) -> dict[str, Any]:
        """Return the options of greedy generation that ends where the template says."""
        from transformers import GenerationConfig

        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens!r} must be a whole number of at least 1")
        if self.model.device.type == "meta":
            raise ConfigError("device='meta' builds a model without weights, which cannot answer; choose another")
        tokenizer, template = self.processor.tokenizer, self.processor.template
        ends = {tokenizer.convert_tokens_to_ids(stop) for stop in template.stop if stop in template.control_tokens}
        ends |= {tokenizer.eos_token_id} - {None}
        texts = [stop for stop in template.stop if stop not in template.control_tokens]
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.processor.pad_id,
            stop_strings=texts or None,
        )
        return {"generation_config": config, **({"tokenizer": tokenizer} if texts else {})}


def local_folder(path: str, revision: str | None = None) -> Path:
    """Return a checkpoint's directory, fetching it from the hub when the path is a hub id.

    ``default`` is the model that comes with tinyvid; a directory of that name is ``./default``.

    Raises:
        CheckpointError: There is no such directory, and the hub cannot give it.
    """
    if not path:
        raise CheckpointError("the path of the checkpoint is empty; name a directory or a hub id")
    if path == DEFAULT:
        return DEFAULT_MODEL
    folder = Path(path).expanduser()
    if os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        return folder
    if os.path.isfile(folder):
        raise CheckpointError(f"{path!r} is a file; a checkpoint is a directory")
    if len(folder.parts) != 2 or folder.is_absolute() or path.startswith(("~", ".")):
        raise CheckpointError(f"there is no directory {path!r}, and it is no hub id ('owner/name') either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"there is no directory {path!r}, and the hub could not give it: {reason}") from error
