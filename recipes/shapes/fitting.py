"""The training loop of all stages: Muon for matrices, AdamW for other weights, one replica of the model per core."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from recipes.shapes.progress import progress

WARMUP = 50  # steps
CLIP = 1.0  # maximum gradient norm
TABLES = ("embed", "latents", "position")  # 2-D weights that are lookup tables, not linear maps
Metrics = dict[str, float]


class Engine:
    """Run shares of a batch on replicas that share their weights, one per core, and add up the gradients.

    Splitting small operations over two cores leaves them idle; running half of the batch on each does not. On a GPU
    there is one replica.

    Args:
        module: The module to train, on its device.
        bf16: Multiply matrices in bfloat16.
        replicas: Number of shares of a batch.
    """

    def __init__(self, module: nn.Module, *, bf16: bool, replicas: int) -> None:
        shared = {id(tensor): tensor for tensor in module.parameters()}
        self.module = module
        self.replicas = [module] + [copy.deepcopy(module, dict(shared)) for _ in range(replicas - 1)]
        self.parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.device = next(module.parameters()).device
        self.bf16 = bf16
        self.pool = ThreadPoolExecutor(replicas, initializer=torch.set_num_threads, initargs=(1,))

    def gradients(self, compute: Callable[[Any, Any], tuple[Tensor, Metrics]], shares: Sequence[Any]) -> Metrics:
        """Set the gradients to those of the mean loss over the shares; return the mean metrics."""

        def work(replica: nn.Module, share: Any) -> tuple[Any, Metrics]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss, metrics = compute(replica, share)
            weights = [p for _, p in self.parameters]
            return torch.autograd.grad(loss / len(shares), weights, allow_unused=True), metrics

        results = list(self.pool.map(work, self.replicas, shares))
        for number, (_, parameter) in enumerate(self.parameters):
            found = [gradients[number] for gradients, _ in results if gradients[number] is not None]
            parameter.grad = sum(found[1:], found[0]) if found else None
        return {name: sum(m[name] for _, m in results) / len(results) for name in results[0][1]}


def optimizers(
    parameters: Sequence[tuple[str, nn.Parameter]], *, weight_decay: float, slow: Mapping[str, float], shares: int
) -> list[Any]:
    """Return Muon (K. Jordan et al. 2024) for matrices, in ``shares``, and AdamW for vectors, tables and convolutions.

    ``scale`` of a parameter group is its fraction of the learning rate.
    """

    def group(name: str, parameter: nn.Parameter) -> dict[str, Any]:
        scale = next((share for word, share in slow.items() if word in name), 1.0)
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        return {"params": [parameter], "weight_decay": decay, "scale": scale}

    is_matrix = {name: p.ndim == 2 and not any(word in name for word in TABLES) for name, p in parameters}
    matrices = [group(name, p) for name, p in sorted(parameters, key=lambda item: item[1].numel()) if is_matrix[name]]
    others = [group(name, p) for name, p in parameters if not is_matrix[name]]
    return [
        *(
            torch.optim.Muon(part, lr=1.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
            for part in (matrices[first::shares] for first in range(shares))
        ),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98)),
    ]


def rate(step: int, steps: int) -> float:
    """Return the learning rate factor at a step: linear warm-up, then cosine decay to 0.02."""
    warmup = min(WARMUP, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def fit(
    name: str,
    engine: Engine,
    compute: Callable[[Any, Any], tuple[Tensor, Metrics]],
    shares_of: Callable[[int], Sequence[Any]],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.05,
    slow: Mapping[str, float] = MappingProxyType({}),
    after: Callable[[int, Metrics], None],
) -> None:
    """Train for a number of steps.

    Args:
        name: Label of the progress bar.
        engine: Engine with the module to train.
        compute: Maps a replica and a share of a batch to the loss and metrics.
        shares_of: Maps a step to the shares of its batch.
        steps: Number of optimizer steps.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices.
        slow: Learning rate factors of weights whose name contains the key.
        after: Called after each step with its number, from 1, and its metrics.
    """
    used = optimizers(engine.parameters, weight_decay=weight_decay, slow=slow, shares=len(engine.replicas))
    with progress(name, steps) as tick:
        for step in range(steps):
            for optimizer in used:
                for group in optimizer.param_groups:
                    group["lr"] = group["scale"] * lr * rate(step, steps)
            metrics = engine.gradients(compute, shares_of(step))
            nn.utils.clip_grad_norm_([p for _, p in engine.parameters if p.grad is not None], CLIP)
            list(engine.pool.map(lambda optimizer: optimizer.step(), used))
            tick(1, " ".join(f"{key}={value:.3f}" for key, value in metrics.items()))
            after(step + 1, metrics)
