"""Count the bytes of a training step, for ``tinyvid.diagnostics.estimate``. The model may have no weights.

Weights, optimizer state and logits are exact counts. Activations are an estimate. Along the path of the gradient,
every linear layer keeps its output and, if its weight is trained, its input, in the dtype of the computation. Every
norm keeps its input in float32, and every adapter keeps its input and a dropout mask of one byte per value. With
checkpointing, a decoder layer keeps only its input, and one layer at a time is recomputed. Attention keeps no scores,
as in fused kernels. Motion keeps what autograd saves, if the vision tower trains.
"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.models.adapters import base
from tinyvid.models.video_llm import VideoLLM

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # QLoRA, arXiv:2305.14314, section 3
ADAM8_BLOCK, ADAM8_SMALLEST = 256, 4096  # as in bitsandbytes; smaller tensors have a float32 state (arXiv:2110.02861)


def weight_bytes(part: Any, quant: str) -> int:
    """Return the bytes of a part's weights. ``quant`` applies to the linear layers except the LM head."""
    total = sum(p.nbytes for p in part.parameters())
    if quant == "none":
        return total
    return total + sum(quantized_bytes(m.weight, quant) - m.weight.nbytes for m in _quantized(part))


def quantized_bytes(weight: Tensor, quant: str) -> int:
    """Return the bytes of a linear layer's weight quantized by bitsandbytes.

    ``nf4``: half a byte per value, a one-byte scale per 64 values, a float32 per 256 scales, and per layer a float32
    offset and two code tables (16 and 256 float32). ``int8``: one byte per value and a float32 per row.
    """
    if quant == "int8":
        return weight.numel() + 4 * weight.shape[0]
    blocks = math.ceil(weight.numel() / NF4_BLOCK)
    return math.ceil(weight.numel() / 2) + blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) + 4 * (1 + 16 + 256)


def optimizer_bytes(sizes: Iterable[int], optimizer: str) -> int:
    """Return the bytes of Adam's two moments for tensors of these sizes.

    ``adamw`` uses float32. The 8-bit optimizers use one byte per value and a float32 scale per 256 values. A ``paged``
    one can move its state to host memory when the GPU is full, which the estimate ignores.
    """
    if optimizer == "adamw":
        return 8 * sum(sizes)
    return sum(8 * n if n < ADAM8_SMALLEST else 2 * (n + 4 * math.ceil(n / ADAM8_BLOCK)) for n in sizes)


def logits_bytes(positions: int, vocabulary: int) -> int:
    """Return the peak bytes of the loss: three float32 tensors (positions, vocabulary).

    They are the log-probabilities, their gradient, and the gradient of the logits.
    """
    return 3 * 4 * positions * vocabulary


def activation_bytes(
    model: VideoLLM, *, batch_size: int, length: int, frames: int, dtype: torch.dtype, checkpointing: bool
) -> int:
    """Estimate the bytes that the backward pass of a batch needs; see the docstring of this module."""
    llm = base(model.llm)
    below = _trains(model.get_submodule("connector")) or _trains(model.get_submodule("vision_tower"))
    layers = [layer for layer in llm.get_decoder().layers if below or _trains(layer)]
    rows = batch_size * length
    kept = [rows * _layer_bytes(layer, dtype.itemsize) for layer in layers]
    inputs = rows * llm.get_input_embeddings().weight.shape[1] * dtype.itemsize  # per layer
    widest = max(kept, default=0)
    # During its backward pass, a layer also needs gradients of what it kept, which take the same amount again.
    of_llm = len(layers) * inputs + 2 * widest if checkpointing else sum(kept) + widest
    return of_llm + batch_size * _encoder_bytes(model, frames, dtype)


def copied_bytes(model: VideoLLM, dtype: torch.dtype, quant: str) -> int:
    """Return the bytes of weights that are copied during a step.

    Autocast keeps a copy of the trained weights in the dtype of the computation. Quantized weights are dequantized to
    that dtype, one layer at a time.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = trained * dtype.itemsize if dtype != torch.float32 else 0
    if quant != "none":
        copies += max(layer.weight.numel() for layer in _quantized(model.llm)) * dtype.itemsize
    return copies


def _layer_bytes(layer: nn.Module, itemsize: int) -> int:
    """Return the bytes that a decoder layer keeps per token."""
    return sum(_kept_by(name, module, 1, itemsize) for name, module in layer.named_modules())


def _encoder_bytes(model: VideoLLM, frames: int, dtype: torch.dtype) -> int:
    """Return the bytes that the connector and the vision tower keep per clip, counted during a forward pass."""
    tower, connector = base(model.vision_tower), base(model.connector)
    tower_trains = _trains(model.get_submodule("vision_tower"))
    total = 0
    if tower_trains:
        total += _counted(tower, (frames, 3, tower.image.size, tower.image.size), dtype)  # (T, 3, S, S)
        if model.motion is not None:
            total += _saved(model.motion, (frames, tower.features.num_patches, tower.features.dim), dtype)
    if tower_trains or _trains(model.get_submodule("connector")):
        seen = tower.features if model.motion is None else model.motion.features
        total += _counted(connector, (frames, seen.num_patches, seen.dim), dtype)  # (T, P, Dv + channels)
    return total


@torch.no_grad()
def _counted(part: Any, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    total = 0

    def counting(name: str) -> Callable[..., None]:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
            nonlocal total
            total += _kept_by(name, module, inputs[0].shape[:-1].numel(), dtype.itemsize)

        return count

    keeping = [(name, module) for name, module in part.named_modules() if _kept_by(name, module, 1, dtype.itemsize)]
    hooks = [module.register_forward_hook(counting(name)) for name, module in keeping]
    try:
        part(torch.zeros(shape, dtype=part.dtype, device=next(part.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _saved(part: Any, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the bytes that autograd saves in a part without weights, for features of a shape."""
    total = 0

    def saving(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saving, lambda tensor: tensor):
        deepcopy(part).to("meta")(torch.zeros(shape, dtype=dtype, device="meta", requires_grad=True))
    return total


def _kept_by(name: str, module: Any, rows: int, itemsize: int) -> int:
    """Return the bytes that one module keeps for the backward pass of ``rows`` rows."""
    if isinstance(module, nn.Linear):
        inputs = module.in_features if module.weight.requires_grad else 0
        outputs = (
            0 if ".lora_" in name else module.out_features
        )  # an adapter's output is added to the layer's and freed
        return rows * (inputs + outputs) * itemsize
    if type(module).__name__.endswith("Norm"):
        return rows * next((p.numel() for p in module.parameters(recurse=False)), 0) * 4
    if any(isinstance(drop, nn.Dropout) for drop in getattr(module, "lora_dropout", {}).values()):
        return int(rows * module.in_features)
    return 0


def _quantized(llm: Any) -> list[nn.Linear]:
    """Return the linear layers of an LLM that ``quant`` applies to."""
    head = base(llm).get_output_embeddings()
    linear = {name: module for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    return [module for name, module in linear.items() if module is not head and ".lora_" not in name]


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
