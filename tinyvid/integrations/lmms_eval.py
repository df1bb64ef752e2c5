"""The model ``tinyvid`` of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), which finds it by entry point.

    lmms-eval eval --model tinyvid --model_args pretrained=DIR,num_frames=16 --tasks videomme --batch_size 8

Requests go the road of ``tinyvid.evaluation``: questions about one video share its decode and its pass of the tower,
decoding runs ahead of the model, and replies come in batches. eval/README.md says how to install both programs.
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
        f"tinyvid.integrations.lmms_eval needs lmms-eval ({error}); install it in an environment of its own, as "
        "eval/README.md describes"
    ) from error

logger = logging.getLogger(__name__)

WORKERS = 2  # threads that decode ahead of the model
WINDOW = 16  # batches whose requests are in memory at once: lmms-eval hands over images decoded
UNREADABLE = ("raise", "empty")


class TinyVid(lmms):
    """A checkpoint as a chat model of lmms-eval. Each task writes its own prompt, and says how replies are drawn.

    Args:
        pretrained: What ``Assistant.from_pretrained`` takes: a directory or a hub id; the model that comes with tinyvid
            if not given.
        device: See ``Assistant.from_config``.
        dtype: See ``Assistant.from_config``.
        quant: See ``Assistant.from_config``.
        batch_size: Requests that go through the LLM at once.
        sampler: Which frames, in place of the checkpoint's rule: a name such as ``midpoint``, or a mapping such as
            ``{name: fps, fps: 2}``.
        num_frames: Frames of each video, of the rule in force.
        unreadable: A video that cannot be read stops the run (``raise``), or has an ``empty`` reply and is named in a
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
            raise ConfigError(f"batch_size={batch_size!r} must be a whole number of at least 1; tinyvid tries none out")
        self.batch_size = int(batch_size)
        self.unreadable = unreadable
        options = _sampler(sampler) | ({} if num_frames is None else {"num_frames": num_frames})
        groups: Any = {"sampler": options} if options else {}
        self.assistant = Assistant.from_pretrained(pretrained, device=device, dtype=dtype, quant=quant, **groups)

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval gathers counts of several processes there."""
        return self.assistant.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the replies to requests, in their order.

        Args:
            requests: Instances with ``args``: context, document to messages, generation options, number of the
                document, task, split.

        Raises:
            ConfigError: A task asks for beams or a penalty, or for an option that tinyvid does not have.
            DataError: A request does not fit the LLM's context, or shows media in a way that tinyvid does not.
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
        """Raise ``NotImplementedError``: lmms-eval asks no chat model for likelihoods."""
        raise NotImplementedError(
            "lmms-eval asks chat models, and so tinyvid, for replies only; python eval.py benchmark=NAME "
            "score=likelihood compares the likelihoods of options"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raise ``NotImplementedError``: no round can see the reply to the one before."""
        raise NotImplementedError("tinyvid replies to each request once; choose tasks of output_type generate_until")

    def clean(self) -> None:
        """Let go of the model: lmms-eval has all replies, and may load a local judge next."""
        del self.assistant
        super().clean()

    def _item(self, request: Any, name: str) -> Item:
        _, to_messages, _, document, task, split = request.args
        messages = to_messages(self.task_dict[task][split][document])
        return Item(name, sample_of(messages, name=name), rule="exact")

    def _replies(self, items: Sequence[Item], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Yield the number of each item and the reply to it, as they come."""
        answerer = Answerer(self.assistant, batch_size=self.batch_size, decoding=decoding)
        prepare = Preparer(self.assistant.processor, _Asked(items), items, decoding.max_new_tokens, "reply")
        for groups in ahead(prepare, plan_units(items, self.batch_size), WORKERS):
            for group in groups:
                if group.failure and self.unreadable == "raise":
                    raise VideoError(f"{group.failure}; unreadable=empty goes on, with an empty reply")
                for index in group.indices if group.failure else ():
                    logger.warning("%s has an empty reply: %s", items[index].id, group.failure)
                    yield index, ""
            for answer in answerer(groups):
                yield answer.index, answer.reply or ""


class _Asked:
    """Requests, as a benchmark that the road of ``tinyvid.evaluation`` takes."""

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
        """Return nothing: lmms-eval scores."""
        return {}


def _sampler(text: str | None) -> dict[str, Any]:
    """Return the options of a sampler from its name, or from a mapping as YAML writes it."""
    try:
        value = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"sampler={text!r} is no name and no mapping: {error}") from error
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ConfigError(f"sampler={text!r} must be a name or a mapping, such as {{name: fps, fps: 2}}")
    return value


def manifest() -> Any:
    """Return what lmms-eval is to know of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest  # its package asks this module for manifests when imported

    return ModelManifest(model_id="tinyvid", chat_class_path=f"{__name__}.{TinyVid.__name__}")
