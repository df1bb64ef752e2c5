"""The model: a vision tower, a connector and an LLM, joined by one scatter.

The Processor lays out the sequence, so the model does not pad, truncate or relabel. It computes video tokens, scatters
them into the positions of ``video_mask``, and calls the LLM. The LM head runs at label positions only, because the
logits of a whole sequence (3,000 x 151,936 in float32) would be the largest tensor of a training step.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyvid.caches import FeatureCache, check_frozen
from tinyvid.errors import DataError
from tinyvid.models.llms.packing import check_packing
from tinyvid.processing.batch import Batch, Output, VideoInput
from tinyvid.processing.collate import positions_of, without_empty
from tinyvid.protocols import Connector, Motion, VisionTower
from tinyvid.types import IGNORE_INDEX, Question, Slot, TokenBudget, VideoTokens

PARTS = ("llm", "vision_tower", "connector")  # attributes of a VideoLLM


class VideoLLM(nn.Module):
    """A causal LM that reads video tokens among its text tokens.

    Args:
        llm: A causal LM of transformers.
        vision_tower: Implements ``protocols.VisionTower``.
        connector: Implements ``protocols.Connector``.
        motion: Implements ``protocols.Motion``; ``None`` if the connector sees the features of the vision tower.
        tower_chunk: Frames per forward pass of the vision tower; limits memory and does not change the result.

    Attributes:
        kept: Video tokens of each sample of the last batch, as a share of its patches; ``None`` without a reducer, and
            for a sample without video.
    """

    def __init__(
        self,
        llm: Any,
        vision_tower: VisionTower,
        connector: Connector,
        motion: Motion | None = None,
        *,
        tower_chunk: int = 32,
    ) -> None:
        super().__init__()
        self.llm = llm
        self.vision_tower = vision_tower
        self.motion = motion
        self.connector = connector
        self.tower_chunk = tower_chunk
        self.kept: tuple[float | None, ...] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the LLM's embeddings; batches must be on it."""
        return self.llm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the LLM's embeddings, in which its layers compute even if they are quantized."""
        return self.llm.get_input_embeddings().weight.dtype

    def forward(self, batch: Batch) -> Output:
        """Compute the logits at the label positions of a batch.

        Args:
            batch: A batch on the model's device.

        Returns:
            ``logits`` (N, vocabulary) in float32 and ``labels`` (N,). In training mode the logits depend on every
            trainable weight, even if N is 0.
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
        """Return the attention mask of the LLM: (B, L), or (B, 1, L, L) for packed samples.

        Raises:
            ConfigError: The LLM does not keep packed samples apart.
        """
        if batch.blocks is None:
            return batch.attention_mask
        check_packing(self.llm, batch.blocks.shape[1])
        mask = _block_mask(batch.attention_mask, batch.blocks)
        if self.llm.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    def _reach_all(self) -> Tensor:
        """Return a zero that depends on every trainable weight, to add to the embeddings.

        A batch without videos or targets uses only some of the weights, and a vision tower does not use the weights
        above its chosen layer. DDP waits for the gradients of all weights, and FSDP also for those of the embeddings.
        Sharded weights are skipped: they belong to the LLM's layers, which the logits depend on anyway.
        """
        reached = [p for p in self.parameters() if p.requires_grad and not hasattr(p, "full_tensor")]
        return torch.stack([p.flatten()[0].float() * 0 for p in reached]).sum() if reached else torch.zeros(())

    def fill(self, batch: Batch, *, padding_side: str = "right") -> tuple[Tensor, Batch]:
        """Return the embeddings (B, L, D) of a batch with its video tokens, and the batch without empty places.

        If every place is filled, the batch is the same object.

        Raises:
            DataError: The number of video tokens differs from the number of places in the sequence.
        """
        self.kept = None
        if not batch.slots:
            return self.llm.get_input_embeddings()(batch.input_ids), batch
        tokens, filled = self.slot_tokens(batch)  # (sum of K, D), (sum of places,)
        places = int(batch.video_mask.sum())
        if len(filled) != places:
            raise DataError(
                f"samples {list(batch.ids)}: the connector returned {len(filled)} video tokens for {places} places; "
                "make the connector's budget agree with its output"
            )
        kept = self.connector.tokens.kept_positions
        given, batch = batch, without_empty(batch, filled, padding_side=padding_side, keep_positions=kept)
        if self.connector.reducer is not None:
            pairs = zip(batch.video_mask.sum(-1).tolist(), self._patches(given), strict=True)
            self.kept = tuple(tokens / patches if patches else None for tokens, patches in pairs)
        embeddings = self.llm.get_input_embeddings()(batch.input_ids)  # (B, L, D)
        mask = batch.video_mask.unsqueeze(-1)  # (B, L, 1)
        return embeddings.masked_scatter(mask, tokens.to(embeddings.dtype)), batch

    def _patches(self, batch: Batch) -> list[int]:
        """Return the number of patches in the slots of each sample; the batch must contain all places."""
        frames = torch.tensor([len(batch.videos[slot.video].times) for slot in batch.slots])
        ends = torch.tensor([self.connector.tokens.budget(count) for count in frames.tolist()]).cumsum(0)
        samples = torch.searchsorted(batch.video_mask.sum(-1).cumsum(0).cpu(), ends)  # each has the end of a slot
        patches = self.vision_tower.features.num_patches * frames
        return torch.zeros(len(batch.input_ids), dtype=torch.long).index_add(0, samples, patches).tolist()

    def embed(self, batch: Batch) -> Tensor:
        """Return the input embeddings (B, L, D) of a batch with its video tokens. Errors are those of ``fill``."""
        return self.fill(batch)[0]

    def slot_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the video tokens of all slots, concatenated, and a mask of the places that they fill.

        Returns:
            Tokens (sum of K, D), and bool (sum of places,) on the CPU: whether a token fills the place.
        """
        reads, fixed = self.connector.tokens.reads_question, self.connector.tokens.budget.fixed
        asked = [self.question(slot) if reads else None for slot in batch.slots]
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in batch.slots]  # tokens and filled places
        for video, pieces in enumerate(self.pieces(batch)):
            shown = [number for number, slot in enumerate(batch.slots) if slot.video == video]
            times = self._times(batch.videos[video])
            states: dict[Slot | int | None, Any] = {}  # of the reducer
            for features in pieces:  # (T, P, Dv), or pieces along T
                made: dict[Slot | int | None, tuple[Tensor, Tensor]] = {}  # slots with the same question share tokens
                now, times = (None, None) if times is None else times.tensor_split([len(features)])
                for number in shown:
                    slot = batch.slots[number]
                    key = slot if reads else slot.per_frame
                    if key not in made and self.connector.reducer is not None:
                        made[key], states[key] = self._reduce(features, states.get(key), now, asked[number])
                    elif key not in made:
                        made[key] = self._connect(features, asked[number], slot.per_frame)
                    if parts[number]:  # fixed tokens close the clip, so only those of its last piece are kept
                        parts[number][-1] = tuple(rows[: len(rows) - fixed] for rows in parts[number][-1])
                    parts[number].append(made[key])
        tokens, filled = zip(*[piece for slot_parts in parts for piece in slot_parts], strict=True)
        return torch.cat(tokens), torch.cat(filled)

    def _connect(self, features: Tensor, question: Question | None, per_frame: int | None) -> tuple[Tensor, Tensor]:
        """Return the video tokens (K, D) of features (T, P, Dv), and a mask on the CPU of the places that they fill."""
        made = self.connector(features, question, per_frame=per_frame)
        if not isinstance(made, VideoTokens):
            return made, torch.ones(len(made), dtype=torch.bool)
        budget = self.connector.tokens.budget if per_frame is None else TokenBudget(per_frame=per_frame)
        return made.x, _filled(made, budget(len(features)))

    def _times(self, video: VideoInput) -> Tensor | None:
        """Return the times of the frames of a video (T,), if the reducer reads them."""
        reducer = self.connector.reducer
        return torch.tensor(video.times, device=self.device) if reducer is not None and reducer.reads_times else None

    def _reduce(
        self, features: Tensor, state: Any, times: Tensor | None, question: Question | None
    ) -> tuple[tuple[Tensor, Tensor], Any]:
        """Return the video tokens (K, D) and filled places of a clip, or its next piece, and the reducer's state."""
        reducer = self.connector.reducer
        assert reducer is not None  # checked by the caller
        reduced, state = reducer(features, state, times=times, question=question)
        tokens, _ = self._connect(reduced.x.unsqueeze(1), None, None)  # (K, 1, Dv) -> (K, D)
        return (tokens, _filled(reduced, reducer.budget(len(features)))), state

    def question(self, slot: Slot) -> Question:
        """Return the question of a slot for the connector. Its embeddings are computed without gradients."""
        ids = torch.tensor(slot.ids, dtype=torch.long, device=self.device)  # (L,)
        decoder = self.connector.text_decoder
        if decoder is None or not decoder.reads_embeddings:
            return Question(slot.question, ids)
        with torch.no_grad():
            embeddings = self.llm.get_input_embeddings()(ids)  # (L, D)
        return Question(slot.question, ids, embeddings)

    def pieces(self, batch: Batch) -> Iterator[Iterable[Tensor]]:
        """Yield what the connector sees of each video of a batch, piece by piece if its pixels are lazy."""
        clips = iter(self.clips(batch))
        for video in batch.videos:
            pieces = [next(clips)] if video.lazy is None else map(self.encode, video.lazy)
            yield pieces if self.motion is None else self._with_motion(pieces)

    def _with_motion(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        assert self.motion is not None  # checked by the caller
        state = None
        for features in pieces:  # (T, P, Dv)
            seen, state = self.motion(features, state)  # (T, P, Dv + channels)
            yield seen

    def clips(self, batch: Batch) -> list[Tensor]:
        """Return the patch features (T, P, Dv) of the videos of a batch, in order, except those with lazy pixels."""
        encoded = iter(self._run_tower([video.pixels for video in batch.videos if video.pixels is not None]))
        clips = []
        for video in batch.videos:
            if video.pixels is not None:
                clips.append(next(encoded))
            elif video.features is not None:
                clips.append(video.features)
        return [clip.to(self.connector.dtype) for clip in clips]

    def encode(self, pixels: Tensor) -> Tensor:
        """Map the pixels of one clip (T, 3, S, S) to features (T, P, Dv), without gradients if the tower is frozen."""
        return self._run_tower([pixels])[0].to(self.connector.dtype)

    @torch.no_grad()
    def fill_features(self, batch: Batch, cache: FeatureCache | None = None) -> Batch:
        """Return a batch in which the features of the frozen tower replace pixels, and cache the features.

        Lazy pixels stay lazy.

        Raises:
            ConfigError: The tower is trained, so its features would be outdated after one step.
        """
        check_frozen(self.get_submodule("vision_tower"))
        return replace(batch, videos=tuple(self._with_features(video, cache) for video in batch.videos))

    def _with_features(self, video: VideoInput, cache: FeatureCache | None) -> VideoInput:
        if video.pixels is None:
            return video
        with torch.autocast(video.pixels.device.type, enabled=False):  # a cache key stands for one dtype
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
        """Switch to training mode. Parts that are entirely frozen stay in eval mode."""
        super().train(mode)
        for part in map(self.get_submodule, PARTS):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        if mode:
            for layer in self.llm.modules():
                # transformers checkpoints activations in training mode only, and the gradient of the connector passes
                # through a frozen LLM. Only the layer's own flag is set, so its dropout stays off.
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = True
        return self


def _filled(tokens: VideoTokens, num_places: int) -> Tensor:
    """Return a mask on the CPU of the places that tokens fill, bool (places,)."""
    filled = torch.zeros(num_places, dtype=torch.bool)
    filled[tokens.place.cpu()] = True
    return filled


def _block_mask(attention_mask: Tensor, blocks: Tensor) -> Tensor:
    """Return the attention mask of packed samples, bool (B, 1, L, L): causal within the prefix and the own block."""
    length = blocks.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    seen = (blocks == 0)[:, None, :] | (blocks[:, :, None] == blocks[:, None, :])  # (B, L, L)
    return (seen & causal & attention_mask.bool()[:, None, :])[:, None]


@contextmanager
def _head_at(llm: Any, wanted: Tensor) -> Iterator[None]:
    """Run the LM head only on the hidden states where ``wanted`` (B, L) is true, as (1, N, D).

    A hook on the head keeps what the model does to its logits afterwards (soft-capping, scaling), and works with peft
    and quantization. Calling the decoder and the head separately would not.
    """

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])  # (B, L, D) -> (1, N, D)

    hook = llm.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
