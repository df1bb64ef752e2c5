"""Generate replies, greedily or by sampling, and compute log-probabilities of given replies.

The token loop is transformers' ``generate``, which also manages the key-value cache. For sampling, a logits processor
chooses a token and leaves it as the only candidate, so that greedy and sampled generation share all other code.
"""

import logging
import math
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinyvid.errors import CheckpointError, ConfigError, DataError
from tinyvid.models.video_llm import VideoLLM
from tinyvid.processing.batch import Batch
from tinyvid.processing.processor import Processor
from tinyvid.types import IGNORE_INDEX

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to generate a reply. The default is greedy decoding, which is deterministic.

    Attributes:
        max_new_tokens: Maximum length of a reply, in tokens.
        temperature: Divisor of the logits before sampling; 0 is greedy.
        top_p: Sample from the smallest set of tokens with at least this total probability
            (https://arxiv.org/abs/1904.09751); 1 keeps all tokens. It has no effect at temperature 0.
        seed: Random seed. A reply depends on its sample and the seed, not on the rest of the batch.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r} must be a whole number of at least 1")
        if type(self.temperature) not in (int, float) or not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature!r} must be a number of at least 0; 0 is greedy")
        if type(self.top_p) not in (int, float) or not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p!r} must be a number above 0 and at most 1; 1 keeps all tokens")
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f"seed={self.seed!r} must be a whole number of at least 0")


def replies(model: VideoLLM, processor: Processor, batch: Batch, decoding: Decoding, **options: Any) -> list[str]:
    """Generate the replies to a batch of prompts as texts. Arguments and errors are those of ``generate``."""
    return [processor.reply(ids) for ids in generate(model, processor, batch, decoding, **options)]


@torch.inference_mode()
def generate(model: VideoLLM, processor: Processor, batch: Batch, decoding: Decoding, **options: Any) -> Tensor:
    """Generate the replies to a batch of prompts as token ids, up to their end markers: (B, new tokens).

    The batch must be padded on the left. ``options`` go to transformers' ``generate``, such as ``streamer``.

    Raises:
        ConfigError: The model has no weights.
        DataError: The batch is packed.
        CheckpointError: The logits are NaN.
    """
    from transformers import GenerationConfig

    if model.device.type == "meta":
        raise ConfigError("device='meta' builds a model without weights, which cannot reply; choose another device")
    if batch.blocks is not None:
        raise DataError("packed examples are only for training; to generate, do not pack")
    ends, texts = stops(processor)
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=processor.pad_id,
        stop_strings=texts or None,
    )
    if texts:
        options["tokenizer"] = processor.tokenizer
    options["logits_processor"] = [_refuse_nan, *([_sampler(batch, decoding)] if decoding.temperature else [])]
    embeddings, batch = model.fill(batch, padding_side="left")  # (B, L, D)
    if model.kept is not None:
        shares = ", ".join(f"{share:.1%}" for share in model.kept if share is not None)
        logger.info("Video tokens after the reducer, as shares of the patches: %s.", shares)
    if batch.positions is not None:  # otherwise, transformers counts them itself
        options["position_ids"] = batch.positions
    return model.llm.generate(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, generation_config=config, **options
    )


def stops(processor: Processor) -> tuple[list[int], list[str]]:
    """Return what ends a reply: the ids of end tokens, and the stop strings that are not single tokens."""
    tokenizer, template = processor.tokenizer, processor.template
    ends = {tokenizer.convert_tokens_to_ids(stop) for stop in template.stop if stop in template.control_tokens}
    ends |= {tokenizer.eos_token_id} - {None}
    return sorted(ends), [stop for stop in template.stop if stop not in template.control_tokens]


def stream(model: VideoLLM, processor: Processor, batch: Batch, decoding: Decoding) -> Generator[str, None, None]:
    """Yield the reply to a batch of one prompt in pieces, as they are generated; joined, they equal the reply.

    Closing the iterator early stops the generation. Arguments and errors are those of ``generate``.
    """
    from transformers import StoppingCriteriaList, TextIteratorStreamer

    streamer = TextIteratorStreamer(processor.tokenizer)
    closed = False
    failure: list[BaseException] = []

    def work() -> None:
        stopping = StoppingCriteriaList([lambda ids, _: ids.new_full((len(ids),), closed).bool()])
        try:
            generate(model, processor, batch, decoding, streamer=streamer, stopping_criteria=stopping)
        except BaseException as error:  # raised below, in the caller's thread
            failure.append(error)
            streamer.end()

    worker = Thread(target=work, daemon=True)
    worker.start()
    try:
        yield from trimmed(streamer, processor.ends)
    finally:
        closed = True
        worker.join()
    if failure:
        raise failure[0]


def trimmed(pieces: Iterator[str], ends: tuple[str, ...]) -> Iterator[str]:
    """Strip whitespace and the end marker from a reply that arrives in pieces."""
    held, begun = "", False
    for piece in pieces:
        held += piece if begun else piece.lstrip()
        begun = begun or bool(held)
        first = min((held.index(end) for end in ends if end in held), default=None)
        if first is not None:
            yield held[:first].rstrip()
            return
        # The tail may be trailing whitespace or the beginning of an end marker.
        starts = [end[:n] for end in ends for n in range(1, len(end))]
        keep = max((len(start) for start in starts if held.endswith(start)), default=0)
        cut = len(held[: len(held) - keep].rstrip())
        yield held[:cut]
        held = held[cut:]
    yield held.rstrip()


def log_probs(model: VideoLLM, batch: Batch) -> tuple[Tensor, ...]:
    """Return the log-probabilities at the N label positions of each sample of a batch: float32 (N, vocabulary).

    The log-probability of a reply in the labels is the sum of the entries of its tokens.
    """
    counts = (batch.labels[:, 1:] != IGNORE_INDEX).sum(-1)  # (B,)
    return model(batch).logits.log_softmax(-1).split(counts.tolist())


def sample_tokens(logits: Tensor, draws: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Sample a token for each row of logits: (B, vocabulary) to int64 (B,).

    ``draws`` (B,) are random numbers in [0, 1): 0 takes the most likely token, larger ones take less likely tokens.
    """
    logits = logits.float()
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature  # no overflow at low temperatures
    probs, tokens = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)  # (B, vocabulary)
    sums = probs.cumsum(-1)  # (B, vocabulary)
    last = (sums - probs < top_p).sum(-1, keepdim=True) - 1  # (B, 1): the last token that top_p keeps
    below = sums <= draws[:, None] * sums.gather(-1, last)  # (B, vocabulary)
    place = below.sum(-1, keepdim=True).minimum(last)  # (B, 1)
    return tokens.gather(-1, place).squeeze(-1)


def _refuse_nan(written: Tensor, logits: Tensor) -> Tensor:
    """Raise ``CheckpointError`` if the first logits are NaN, which would give an empty or random reply."""
    if written.shape[1] == 0 and logits.isnan().any():
        raise CheckpointError(
            "the LLM computes NaN: weights are damaged, or too large for their dtype; load the model with "
            "dtype=float32 or bfloat16, or copy the weights again"
        )
    return logits


def _sampler(batch: Batch, decoding: Decoding) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a logits processor that leaves only the sampled token of each row."""
    # The random numbers of each row depend only on the seed, the sample's id and its tokens.
    rows = zip(batch.ids, batch.input_ids.cpu(), batch.attention_mask.bool().cpu(), strict=True)
    keys = [zlib.crc32(ids[real].numpy().tobytes(), zlib.crc32(repr(id).encode())) for id, ids, real in rows]
    chances = [np.random.default_rng([decoding.seed, key]) for key in keys]
    draws = np.stack([chance.random(decoding.max_new_tokens, dtype=np.float32) for chance in chances])
    of_step = torch.from_numpy(draws).to(batch.input_ids.device)  # (B, new tokens)

    def choose(written: Tensor, logits: Tensor) -> Tensor:
        now = of_step[:, written.shape[1]]  # (B,); ``written`` contains only the tokens of the reply
        chosen = sample_tokens(logits, now, temperature=decoding.temperature, top_p=decoding.top_p)  # (B,)
        return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)  # (B, vocabulary)

    return choose
