"""What FSDP2 and DeepSpeed change: which modules are cut into shards, and how a checkpoint gets whole weights.

Saving knows nothing of shards: for as long as it takes, the first process holds whole weights on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.adapters import base, is_quantized
from tinyvid.models.video_llm import VideoLLM


def check_launch(accelerator: Any, model: VideoLLM, optimizer: str) -> None:
    """Refuse ways of sharding that would end in a wrong checkpoint, or in none.

    Raises:
        ConfigError: FSDP1, a setting of FSDP2 or an optimizer that does not go with it, or DeepSpeed's ZeRO-3.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ConfigError(
            "DeepSpeed ZeRO-3 leaves no process with whole weights to save; launch with recipes/accelerate/fsdp2.yaml, "
            "which shards the weights too, or with zero2.yaml"
        )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    for key, found, needed in (
        ("fsdp_version", plugin.fsdp_version, 2),
        ("fsdp_cpu_ram_efficient_loading", bool(plugin.cpu_ram_efficient_loading), False),
    ):
        if found != needed:
            raise ConfigError(f"FSDP with {key}={found} is not supported; set {key}: {needed} as in fsdp2.yaml")
    if is_quantized(model.llm):
        raise ConfigError("a quantized LLM cannot be sharded; use quant=none with FSDP, or DDP with quant")
    if optimizer != "adamw":
        raise ConfigError(f"recipe.optimizer={optimizer} keeps no sharded state; use recipe.optimizer=adamw with FSDP")


def prepare(accelerator: Any, model: VideoLLM) -> None:
    """Tell accelerate what FSDP2 shards: each layer of the LLM alone, everything else at once."""
    present = {type(module).__name__ for module in model.llm.modules()}
    model._no_split_modules = sorted(present & set(base(model.llm)._no_split_modules or ()))  # type: ignore[assignment]
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.mixed_precision_policy is not None:
        # accelerate's own policy adds gradients up, and returns the loss, in half precision.
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Put whole weights in the place of shards, on the CPU of the first process; every process must enter.

    The other processes keep their shards. Without shards nothing happens.
    """
    reshards: list[Any] = [module for module in model.modules() if hasattr(module, "reshard")]
    for module in reshards:
        module.reshard()  # the outermost unit stays gathered after a forward pass
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    gathered: dict[int, nn.Parameter] = {}  # tied weights stay tied
    try:
        for module in model.modules():
            shards: list[tuple[str, Any]] = [(k, p) for k, p in module._parameters.items() if p is not None]
            for name, shard in shards:
                if not is_sharded(shard):
                    continue
                if id(shard) not in gathered:
                    whole = shard.detach().full_tensor().cpu()
                    gathered[id(shard)] = nn.Parameter(whole, requires_grad=shard.requires_grad)
                swapped.append((module, name, shard))
        for module, name, shard in swapped:
            module._parameters[name] = gathered[id(shard)]
        yield
    finally:
        for module, name, shard in swapped:
            module._parameters[name] = shard


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a process holds a part of this tensor only."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Give a parameter, whole or sharded, the values of a whole tensor that every process has."""
    if not is_sharded(parameter):
        parameter.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor  # takes long to import, and few train on shards

    target: Any = parameter
    parameter.copy_(distribute_tensor(value.to(parameter.device), target.device_mesh, target.placements))
