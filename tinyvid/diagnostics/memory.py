"""Bytes of a training step, counted on a model that may have no weights: what ``tinyvid.diagnostics.estimate`` adds up.

Weights, the optimizer's state and logits are counts times bytes. Activations are an estimate: where the gradient
passes, every linear layer keeps its output and, if its weight trains, its input in the dtype of the computation; every
norm its input in float32; every adapter its input and a dropout mask of one byte a value. With checkpointing a decoder
layer keeps what enters it, and one layer at a time is computed again. Attention keeps no scores, as in fused kernels.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.models.adapters import base
from tinyvid.models.video_llm import VideoLLM

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # QLoRA, arXiv:2305.14314, section 3
ADAM8_BLOCK, ADAM8_SMALLEST = 256, 4096  # as bitsandbytes: smaller tensors keep a float32 state (arXiv:2110.02861)


def weight_bytes(part: Any, quant: str) -> int:
    """Return the bytes of a part's weights; of an LLM with ``quant``, its linear layers but the head quantized."""
    total = sum(p.nbytes for p in part.parameters())
    if quant == "none":
        return total
    return total + sum(quantized_bytes(m.weight, quant) - m.weight.nbytes for m in _quantized(part))


def quantized_bytes(weight: Tensor, quant: str) -> int:
    """Return the bytes of a linear layer's weight under bitsandbytes.

    ``nf4``: half a byte a value; per 64 values a scale of one byte; per 256 scales a float32, and per layer a float32
    offset and the two code tables (16 and 256 float32). ``int8``: a byte a value, and a float32 per row.
    """
    if quant == "int8":
        return weight.numel() + 4 * weight.shape[0]
    blocks = math.ceil(weight.numel() / NF4_BLOCK)
    return math.ceil(weight.numel() / 2) + blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) + 4 * (1 + 16 + 256)


def optimizer_bytes(sizes: Iterable[int], optimizer: str) -> int:
    """Return the bytes of Adam's two moments for tensors of these sizes.

    ``adamw`` keeps float32. The 8-bit ones keep a byte a value and a float32 scale per 256 values; ``paged`` may move
    that to host memory when the card is full, which is not counted on.
    """
    if optimizer == "adamw":
        return 8 * sum(sizes)
    return sum(8 * n if n < ADAM8_SMALLEST else 2 * (n + 4 * math.ceil(n / ADAM8_BLOCK)) for n in sizes)


def logits_bytes(positions: int, vocabulary: int) -> int:
    """Return the bytes of the loss at its peak: three float32 tensors (positions, vocabulary).

    They are the log-probabilities, the gradient that reaches them, and the gradient of the logits.
    """
    return 3 * 4 * positions * vocabulary


def activation_bytes(
    model: VideoLLM, *, batch_size: int, length: int, frames: int, dtype: torch.dtype, checkpointing: bool
) -> int:
    """Estimate what the backward pass of a batch needs, as the head of this module says.

    The batch has ``batch_size`` samples of ``length`` tokens and ``frames`` frames each. Only the LLM is checkpointed.
    """
    llm = base(model.llm)
    below = _trains(model.get_submodule("connector")) or _trains(model.get_submodule("vision_tower"))
    layers = [layer for layer in llm.get_decoder().layers if below or _trains(layer)]
    rows = batch_size * length
    kept = [rows * _layer_bytes(layer, dtype.itemsize) for layer in layers]
    inputs = rows * llm.get_input_embeddings().weight.shape[1] * dtype.itemsize  # of one layer
    widest = max(kept, default=0)
    # The layer whose backward pass runs also holds gradients of what it kept: as much again.
    of_llm = len(layers) * inputs + 2 * widest if checkpointing else sum(kept) + widest
    return of_llm + batch_size * _encoder_bytes(model, frames, dtype)


def copied_bytes(model: VideoLLM, dtype: torch.dtype, quant: str) -> int:
    """Return the bytes of weights that are there twice during a step.

    Autocast keeps a copy of what trains in the dtype of the computation; of quantized weights, one layer at a time is
    there in that dtype.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = trained * dtype.itemsize if dtype != torch.float32 else 0
    if quant != "none":
        copies += max(layer.weight.numel() for layer in _quantized(model.llm)) * dtype.itemsize
    return copies


def _layer_bytes(layer: nn.Module, itemsize: int) -> int:
    """Return what a decoder layer keeps for one token."""
    return sum(_kept_by(name, module, 1, itemsize) for name, module in layer.named_modules())


def _encoder_bytes(model: VideoLLM, frames: int, dtype: torch.dtype) -> int:
    """Return what connector and vision tower keep for one clip, counted while they run, on the meta device if there."""
    tower, connector = base(model.vision_tower), base(model.connector)
    tower_trains = _trains(model.get_submodule("vision_tower"))
    total = 0
    if tower_trains:
        total += _counted(tower, (frames, 3, tower.image.size, tower.image.size), dtype)  # (T, 3, S, S)
    if tower_trains or _trains(model.get_submodule("connector")):
        total += _counted(connector, (frames, tower.features.num_patches, tower.features.dim), dtype)  # (T, P, Dv)
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


def _kept_by(name: str, module: Any, rows: int, itemsize: int) -> int:
    """Return what the backward pass needs of ``rows`` rows that go through one module."""
    if isinstance(module, nn.Linear):
        inputs = module.in_features if module.weight.requires_grad else 0
        outputs = 0 if ".lora_" in name else module.out_features  # an adapter's is added to the layer's, and gone
        return rows * (inputs + outputs) * itemsize
    if type(module).__name__.endswith("Norm"):
        return rows * next((p.numel() for p in module.parameters(recurse=False)), 0) * 4
    if any(isinstance(drop, nn.Dropout) for drop in getattr(module, "lora_dropout", {}).values()):
        return int(rows * module.in_features)
    return 0


def _quantized(llm: Any) -> list[nn.Linear]:
    """Return the layers of an LLM that ``quant`` quantizes."""
    head = base(llm).get_output_embeddings()
    linear = {name: module for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    return [module for name, module in linear.items() if module is not head and ".lora_" not in name]


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
