"""The model ``tinyvid`` for lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), which finds it by entry point.

    lmms-eval eval --model tinyvid --model_args pretrained=DIR,num_frames=16 --tasks videomme --batch_size 8

Requests are processed as in ``tinyvid.evaluation``: questions about one video share its decode and its tower pass,
decoding runs ahead of the model, and replies are generated in batches. See eval/README.md for the installation.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import yaml

from tinyvid.assistant import Assistant
from tinyvid.errors import ConfigError, VideoError, suggest
from tinyvid.evaluation.items import Item, Outcome
from tinyvid.evaluation.running.answering import Answerer
from tinyvid.evaluation.running.units import Preparer, ahead, plan_units
from tinyvid.generation.decode import Decoding
from tinyvid.integrations.chat import Generation, generation_of, names_of, sample_of

try:
    from lmms_eval.api.model import lmms
    from tqdm import tqdm
except ImportError as error:
    raise ConfigError(
        f"tinyvid.integrations.lmms_eval needs lmms-eval ({error}); install it in a separate environment, as described "
        "in eval/README.md"
    ) from error

logger = logging.getLogger(__name__)

WORKERS = 2  # threads that decode ahead of the model
WINDOW = 16  # batches whose requests are in memory at once, because lmms-eval passes decoded images
UNREADABLE = ("raise", "empty")


class TinyVid(lmms):
    """A checkpoint as a chat model of lmms-eval. Each task defines its prompt and its generation options.

    Args:
        pretrained: A directory or a hub id, as for ``Assistant.from_pretrained``; the model that is included in
            tinyvid if not given.
        device: See ``Assistant.from_config``.
        dtype: See ``Assistant.from_config``.
        quant: See ``Assistant.from_config``.
        batch_size: Requests per batch of the LLM.
        sampler: Sampler to use instead of the checkpoint's: a name such as ``midpoint``, or a mapping such as
            ``{name: fps, fps: 2}``.
        num_frames: Number of frames per video, as an option of the sampler.
        unreadable: Whether a video that cannot be read stops the run (``raise``), or gets an ``empty`` reply and a
            warning.

    Raises:
        ConfigError: An option is wrong.
        CheckpointError: The checkpoint cannot be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quant: str = "none",
        batch_size: int | str = 1,
        sampler: str | None = None,
        num_frames: int | None = None,
        unreadable: Literal["raise", "empty"] = "raise",
    ) -> None:
        super().__init__()
        if unreadable not in UNREADABLE:
            raise ConfigError(f"unreadable={unreadable!r} is unknown. {suggest(str(unreadable), UNREADABLE)}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ConfigError(f"batch_size={batch_size!r} must be an integer of at least 1; 'auto' is not supported")
        self.batch_size = int(batch_size)
        self.unreadable = unreadable
        options = _sampler(sampler) | ({} if num_frames is None else {"num_frames": num_frames})
        groups: Any = {"sampler": options} if options else {}
        self.assistant = Assistant.from_pretrained(pretrained, device=device, dtype=dtype, quant=quant, **groups)

    @property
    def device(self) -> torch.device:
        """The device of the model, on which lmms-eval gathers counts of several processes."""
        return self.assistant.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the replies to requests, in order.

        Args:
            requests: Instances whose ``args`` are context, a function from document to messages, generation options,
                document number, task and split.

        Raises:
            ConfigError: A task uses an unsupported generation option, such as beam search.
            DataError: A request does not fit into the LLM's context, or has media after text.
            VideoError: A video cannot be read.
        """
        groups: dict[Generation, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(generation_of(request.args[2], task=request.args[4]), []).append(number)
        names = names_of([(request.args[4], request.args[3]) for request in requests])
        replies = [""] * len(requests)
        with tqdm(total=len(requests), desc="tinyvid", disable=self.rank != 0) as bar:
            for generation, numbers in groups.items():
                for first in range(0, len(numbers), WINDOW * self.batch_size):
                    portion = numbers[first : first + WINDOW * self.batch_size]
                    items = [self._item(requests[number], names[number]) for number in portion]
                    for index, reply in self._replies(items, generation.decoding):
                        context, _, options, *_ = requests[portion[index]].args
                        replies[portion[index]] = generation.cut(reply)
                        self.cache_hook.add_partial("generate_until", (context, options), replies[portion[index]])
                        bar.update()
        return replies

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raise ``NotImplementedError``: lmms-eval does not request likelihoods from chat models."""
        raise NotImplementedError(
            "lmms-eval requests only replies from chat models such as tinyvid; use python eval.py benchmark=NAME "
            "score=likelihood to compare the likelihoods of options"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raise ``NotImplementedError``: multi-round requests are not supported."""
        raise NotImplementedError("tinyvid replies to each request once; choose tasks of output_type generate_until")

    def clean(self) -> None:
        """Free the model: lmms-eval has all replies, and may load a local judge next."""
        del self.assistant
        super().clean()

    def _item(self, request: Any, name: str) -> Item:
        _, to_messages, _, document, task, split = request.args
        messages = to_messages(self.task_dict[task][split][document])
        return Item(name, sample_of(messages, name=name), rule="exact")

    def _replies(self, items: Sequence[Item], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Yield the index of each item and its reply, as they are generated."""
        moments = self.assistant.processor.template.moments
        answerer = Answerer(self.assistant, batch_size=self.batch_size, decoding=decoding)
        prepare = Preparer(self.assistant.processor, _Asked(items), items, decoding.max_new_tokens, "reply")
        for groups in ahead(prepare, plan_units(items, self.batch_size), WORKERS):
            for group in groups:
                if group.failure and self.unreadable == "raise":
                    raise VideoError(f"{group.failure}; use unreadable=empty to continue with an empty reply")
                for index in group.indices if group.failure else ():
                    logger.warning("The reply to %s is empty: %s", items[index].id, group.failure)
                    yield index, ""
            videos = {q.index: group.example.timeline for group in groups if group.example for q in group.questions}
            for answer in answerer(groups):
                yield answer.index, moments.in_seconds(answer.reply or "", videos.get(answer.index))


class _Asked:
    """Requests as a benchmark of ``tinyvid.evaluation``."""

    name = "lmms-eval"
    source = "the tasks of lmms-eval"
    prompt_style = "lmms_eval"

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return no averages, because lmms-eval scores the replies."""
        return {}


def _sampler(text: str | None) -> dict[str, Any]:
    """Return the options of a sampler from its name, or from a mapping in YAML."""
    try:
        value = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"sampler={text!r} must be a name or a mapping, but it is not valid YAML: {error}") from error
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ConfigError(f"sampler={text!r} must be a name or a mapping, such as {{name: fps, fps: 2}}")
    return value


def manifest() -> Any:
    """Return the manifest of the model for lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest  # lmms-eval imports this module while it is being imported

    return ModelManifest(model_id="tinyvid", chat_class_path=f"{__name__}.{TinyVid.__name__}")
