"""The model: vision tower, connector and LLM joined by one scatter.

The Processor has laid the sequence out, so the model does not pad, cut or relabel: it computes video tokens, puts
them where ``video_mask`` says, and calls the LLM. The LM head runs at label positions only, because a vocabulary of
151,936 times a sequence of 3,000 in float32 is otherwise the largest tensor of a training step.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyvid.caches import FeatureCache, check_frozen
from tinyvid.errors import ConfigError, DataError
from tinyvid.processing.batch import Batch, Output, VideoInput
from tinyvid.processing.collate import positions_of, without_empty
from tinyvid.protocols import Connector, VisionTower
from tinyvid.types import IGNORE_INDEX, Question, Slot, TokenBudget, VideoTokens

PARTS = ("llm", "vision_tower", "connector")  # of a VideoLLM, by the names of its members


class VideoLLM(nn.Module):
    """Answer questions about videos, or learn to.

    Args:
        llm: A causal LM of transformers.
        vision_tower: Fulfills ``protocols.VisionTower``.
        connector: Fulfills ``protocols.Connector``.
        tower_chunk: Frames that go through the vision tower at once; bounds memory, changes no number.
    """

    def __init__(self, llm: Any, vision_tower: VisionTower, connector: Connector, *, tower_chunk: int = 32) -> None:
        super().__init__()
        self.llm = llm
        self.vision_tower = vision_tower
        self.connector = connector
        self.tower_chunk = tower_chunk

    @property
    def device(self) -> torch.device:
        """Where the embeddings of the LLM lie, and a batch must too."""
        return self.llm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the embeddings of the LLM are in, and what its layers compute in, quantized or not."""
        return self.llm.get_input_embeddings().weight.dtype

    def forward(self, batch: Batch) -> Output:
        """Predict the tokens at the label positions of a batch.

        Args:
            batch: On the model's device.

        Returns:
            ``logits`` (N, vocabulary) in float32 and the ``labels`` (N,). In training mode every trainable weight has
            a gradient of the logits, even if N is 0.
        """
        embeddings, batch = self.fill(batch)  # (B, L, D)
        targets = batch.labels[:, 1:]  # (B, L-1): position t predicts token t+1
        wanted = F.pad(targets != IGNORE_INDEX, (0, 1))  # (B, L)
        if self.training and (not wanted.any() or not batch.slots or self._tower_learns()):
            embeddings = embeddings + self._reach_all()
        with _head_at(self.llm, wanted):
            logits = self.llm(
                inputs_embeds=embeddings,
                attention_mask=self._visible(batch, embeddings.dtype),
                position_ids=positions_of(batch),
                use_cache=False,
            ).logits
        return Output(logits[0].float(), targets[targets != IGNORE_INDEX])

    def _visible(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the attention mask of the LLM: (B, L) of real tokens, or (B, 1, L, L) of packed samples.

        Raises:
            ConfigError: The attention implementation takes no such mask.
        """
        if batch.blocks is None:
            return batch.attention_mask
        attention = self.llm.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise ConfigError(f"recipe.pack above 1 needs llm.attention=sdpa or eager, not {attention!r}")
        mask = _block_mask(batch.attention_mask, batch.blocks)
        if attention == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    def _reach_all(self) -> Tensor:
        """Return a zero that depends on every trainable weight, to be added to the embeddings.

        A batch without a video or without a target uses only some of them, and a vision tower none above its chosen
        layer; processes that train together wait for the gradients of all, and FSDP for those of the embeddings too.
        The layers of the LLM are reached from the logits; where FSDP has cut them into shards, they are left out here.
        """
        reached = [p for p in self.parameters() if p.requires_grad and not hasattr(p, "full_tensor")]
        return torch.stack([p.flatten()[0].float() * 0 for p in reached]).sum() if reached else torch.zeros(())

    def fill(self, batch: Batch, *, padding_side: str = "right") -> tuple[Tensor, Batch]:
        """Return the embeddings (B, L, D) of a batch, video tokens in place, and the batch without places left empty.

        Raises:
            DataError: The connector made more or fewer video tokens than the sequence has places.
        """
        if not batch.slots:
            return self.llm.get_input_embeddings()(batch.input_ids), batch
        tokens, filled = self.slot_tokens(batch)  # (sum of K, D), (sum of places,)
        places = int(batch.video_mask.sum())
        if len(filled) != places:
            raise DataError(
                f"samples {list(batch.ids)}: the connector made {len(filled)} video tokens for {places} places; "
                "the connector's budget and its output disagree"
            )
        kept = self.connector.tokens.kept_positions
        batch = without_empty(batch, filled, padding_side=padding_side, keep_positions=kept)
        embeddings = self.llm.get_input_embeddings()(batch.input_ids)  # (B, L, D)
        mask = batch.video_mask.unsqueeze(-1)  # (B, L, 1)
        return embeddings.masked_scatter(mask, tokens.to(embeddings.dtype)), batch

    def embed(self, batch: Batch) -> Tensor:
        """Return the input embeddings of a batch, video tokens in place: (B, L, D). Errors as of ``fill``."""
        return self.fill(batch)[0]

    def video_tokens(self, batch: Batch) -> Tensor:
        """Return the video tokens of every slot of a batch, end to end: (sum of K, D)."""
        return self.slot_tokens(batch)[0]

    def slot_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the video tokens of every slot, end to end, and which places they fill.

        Returns:
            Tokens (sum of K, D), and bool (sum of places,), on the CPU: whether a token fills a place.
        """
        reads = self.connector.tokens.reads_question
        asked = [self.question(slot) if reads else None for slot in batch.slots]
        parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in batch.slots]
        for video, pieces in enumerate(self.pieces(batch)):
            shown = [number for number, slot in enumerate(batch.slots) if slot.video == video]
            for features in pieces:  # (T, P, Dv), or in pieces of it
                made: dict[Slot | int | None, tuple[Tensor, Tensor]] = {}  # slots that ask the same share tokens
                for number in shown:
                    slot = batch.slots[number]
                    key = slot if reads else slot.per_frame
                    if key not in made:
                        made[key] = self._connect(features, asked[number], slot.per_frame)
                    parts[number].append(made[key])
        tokens, filled = zip(*[piece for slot_parts in parts for piece in slot_parts], strict=True)
        return torch.cat(tokens), torch.cat(filled)

    def _connect(self, features: Tensor, question: Question | None, per_frame: int | None) -> tuple[Tensor, Tensor]:
        """Return the video tokens (K, D) of features (T, P, Dv), and on the CPU which of their places they fill."""
        made = self.connector(features, question, per_frame=per_frame)
        if not isinstance(made, VideoTokens):
            return made, torch.ones(len(made), dtype=torch.bool)
        budget = self.connector.tokens.budget if per_frame is None else TokenBudget(per_frame=per_frame)
        filled = torch.zeros(budget(len(features)), dtype=torch.bool)
        filled[made.place.cpu()] = True
        return made.x, filled

    def question(self, slot: Slot) -> Question:
        """Return the question of a slot as the connector reads it; the LLM's embeddings of it keep no graph."""
        ids = torch.tensor(slot.ids, dtype=torch.long, device=self.device)  # (L,)
        decoder = self.connector.text_decoder
        if decoder is None or not decoder.reads_embeddings:
            return Question(slot.question, ids)
        with torch.no_grad():
            embeddings = self.llm.get_input_embeddings()(ids)  # (L, D)
        return Question(slot.question, ids, embeddings)

    def pieces(self, batch: Batch) -> Iterator[Iterable[Tensor]]:
        """Yield for every video of a batch its patch features: whole, or piece by piece where its pixels are lazy."""
        clips = iter(self.clips(batch))
        for video in batch.videos:
            yield [next(clips)] if video.lazy is None else map(self.encode, video.lazy)

    def clips(self, batch: Batch) -> list[Tensor]:
        """Return the patch features (T, P, Dv) of every video of a batch whose pixels are not lazy, in order."""
        encoded = iter(self._run_tower([video.pixels for video in batch.videos if video.pixels is not None]))
        clips = []
        for video in batch.videos:
            if video.pixels is not None:
                clips.append(next(encoded))
            elif video.features is not None:
                clips.append(video.features)
        return [clip.to(self.connector.dtype) for clip in clips]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the patch features of one clip: (T, 3, S, S) to (T, P, Dv). A frozen tower keeps no graph."""
        return self._run_tower([pixels])[0].to(self.connector.dtype)

    @torch.no_grad()
    def fill_features(self, batch: Batch, cache: FeatureCache | None = None) -> Batch:
        """Run the frozen tower over the pixels of a batch, and return the batch with features, which go into the cache.

        Lazy pixels stay lazy.

        Raises:
            ConfigError: The tower trains: its features would be old after a step.
        """
        check_frozen(self.get_submodule("vision_tower"))
        return replace(batch, videos=tuple(self._with_features(video, cache) for video in batch.videos))

    def _with_features(self, video: VideoInput, cache: FeatureCache | None) -> VideoInput:
        if video.pixels is None:
            return video
        with torch.autocast(video.pixels.device.type, enabled=False):  # whatever a run does, one key is one dtype
            (features,) = self._run_tower([video.pixels])  # (T, P, Dv)
        if cache is not None:
            cache.write(video.key, features)
        return replace(video, pixels=None, features=features)

    def _run_tower(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Return the patch features (T, P, Dv) of clips (T, 3, S, S), which share calls where they fit in a chunk."""
        chunks: list[list[Tensor]] = []
        for piece in (piece for clip in clips for piece in clip.split(self.tower_chunk)):
            if not chunks or sum(map(len, chunks[-1])) + len(piece) > self.tower_chunk:
                chunks.append([])
            chunks[-1].append(piece)
        with torch.set_grad_enabled(self._tower_learns() and torch.is_grad_enabled()):
            pixels = (torch.cat(chunk).to(self.device, self.vision_tower.dtype) for chunk in chunks)
            features = [self.vision_tower(frames) for frames in pixels]  # each (N, P, Dv)
            return list(torch.cat(features).split([len(clip) for clip in clips])) if features else []

    def _tower_learns(self) -> bool:
        return any(p.requires_grad for p in self.get_submodule("vision_tower").parameters())

    def train(self, mode: bool = True) -> "VideoLLM":
        """Switch to training mode, except parts that are frozen entirely: those stay in eval mode."""
        super().train(mode)
        for part in map(self.get_submodule, PARTS):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        if mode:
            for layer in self.llm.modules():
                # transformers recomputes activations in training mode only. The gradient of a connector passes through
                # a frozen LLM, too. The layer's own flag suffices; what it consists of, such as dropout, stays in eval.
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = True
        return self


def _block_mask(attention_mask: Tensor, blocks: Tensor) -> Tensor:
    """Return which token sees which, bool (B, 1, L, L): itself, and before it the prefix and its own block."""
    length = blocks.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    seen = (blocks == 0)[:, None, :] | (blocks[:, :, None] == blocks[:, None, :])  # (B, L, L)
    return (seen & causal & attention_mask.bool()[:, None, :])[:, None]


@contextmanager
def _head_at(llm: Any, wanted: Tensor) -> Iterator[None]:
    """Let the LM head see only the hidden states where ``wanted`` (B, L) is true, as (1, N, D).

    A hook on the head, rather than a call of the decoder and then the head, keeps whatever the model does to its
    logits afterwards (soft-capping, scaling) and works under peft and quantization alike.
    """

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])  # (B, L, D) -> (1, N, D)

    hook = llm.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
