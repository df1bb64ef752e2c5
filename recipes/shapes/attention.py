"""The LLM's attention during training: faster on a CPU in bfloat16, with an auxiliary loss on where to attend."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinyvid.processing.batch import Batch
from tinyvid.types import IGNORE_INDEX

GUIDED_LAYERS = (
    -3,
    -1,
)  # relative to the last layer: earlier layers combine words, and shapes are needed before options
GUIDED_HEADS = 2
USUAL = ALL_ATTENTION_FUNCTIONS["sdpa"]


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
    """Compute the attention of transformers' ``sdpa``: (B, H, L, Dh) to (B, L, H, Dh).

    In training, uses explicit products and a softmax, because torch's kernel with a mask is half as fast on a CPU.
    Stores the weights of the guided layers.
    """
    if mask is None or not torch.is_grad_enabled():
        return USUAL(module, query, key, value, mask, **options)
    shape = query.shape  # (B, H, L, Dh)
    length = shape[2]
    dtype = torch.bfloat16 if torch.is_autocast_enabled(query.device.type) else query.dtype
    query, key, value = (part.to(dtype).reshape(-1, length, shape[3]) for part in (query, key, value))
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -1e9)  # (B, 1, L, L)
    hidden = hidden.expand(*shape[:2], length, length).reshape(-1, length, length)
    scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=shape[3] ** -0.5)  # (B * H, L, L)
    with torch.autocast(query.device.type, enabled=False):  # autocast would compute the softmax in float32
        weights = scores.softmax(-1)
    if module.layer_idx - module.config.num_hidden_layers in GUIDED_LAYERS:
        module.weights = weights.view(*shape[:2], length, length)  # (B, H, L, L)
    return (weights @ value).view(shape).transpose(1, 2).contiguous(), None


def install() -> None:
    """Make all models of this process use ``attend``."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend


def guidance(llm: Any, batch: Batch, asked: Tensor, described: Tensor, options: Tensor) -> Tensor:
    """Return a loss that is low where some heads look, from the place where a reply begins, at what decides the reply.

    Two heads of a middle layer look at the tokens of the shapes in question, two of the last one at the words of the
    right option. A small LLM takes a long time to find out that the words of a question name a shape which video tokens
    describe, and that a letter stands for the words behind it; where to look is known, and says so at once.

    Args:
        llm: The LLM after its forward pass on the batch.
        batch: Packed questions.
        asked: bool (B, Q, N), which shapes the k-th question of a clip is about; all false if unclear.
        described: (B, K), the shape that each video token describes, -1 for none.
        options: bool (B, L), the tokens of correct options.
    """
    learned = batch.labels != IGNORE_INDEX
    row, place = (learned[:, 1:] & ~learned[:, :-1]).nonzero(as_tuple=True)  # the last token of each prompt
    block = batch.blocks[row, place]  # type: ignore[index]
    of_option = options[row] & (batch.blocks[row] == block[:, None])  # type: ignore[index]  # (M, L)
    shapes, tokens = asked[row, block - 1], described[row]  # (M, N), (M, K)
    of_shape = torch.zeros_like(of_option)
    of_shape[batch.video_mask[row]] = (shapes.gather(1, tokens.clamp(min=0)) & (tokens >= 0)).flatten()
    loss = torch.zeros((), device=row.device)
    for layer, right in ((GUIDED_LAYERS[0], of_shape), (GUIDED_LAYERS[1], of_option)):
        known = right.any(-1)
        if known.any():
            weights = llm.model.layers[layer].self_attn.weights[row[known], :GUIDED_HEADS, place[known]].float()
            loss = loss - ((weights * right[known, None]).sum(-1) + 1e-4).log().mean()
    return loss
