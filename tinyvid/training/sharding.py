"""Support FSDP2 and DeepSpeed: select the modules to shard, and gather weights for checkpoints.

During a save, the first process has the unsharded weights on the CPU, so the code that saves needs no special cases.
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
    """Check that the launch configuration supports saving correct checkpoints.

    Raises:
        ConfigError: The run uses FSDP1, DeepSpeed ZeRO-3, or FSDP2 with unsupported settings or optimizers.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ConfigError(
            "DeepSpeed ZeRO-3 is not supported, because no process has unsharded weights to save; launch with "
            "recipes/accelerate/fsdp2.yaml, which also shards the weights, or with zero2.yaml"
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
        raise ConfigError(f"recipe.optimizer={optimizer} does not support FSDP; use recipe.optimizer=adamw")


def prepare(accelerator: Any, model: VideoLLM) -> None:
    """Configure FSDP2 to shard each layer of the LLM separately, and everything else as one unit."""
    present = {type(module).__name__ for module in model.llm.modules()}
    model._no_split_modules = sorted(present & set(base(model.llm)._no_split_modules or ()))  # type: ignore[assignment]
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.mixed_precision_policy is not None:
        # accelerate's default policy reduces gradients, and returns the loss, in half precision.
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Replace sharded weights by unsharded ones on the CPU of the first process. All processes must enter.

    The other processes keep their shards. Without sharding, this does nothing.
    """
    reshards: list[Any] = [module for module in model.modules() if hasattr(module, "reshard")]
    for module in reshards:
        module.reshard()  # the outermost unit stays unsharded after a forward pass
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
    """Return whether a tensor is sharded over processes."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Copy an unsharded tensor, which every process has, into a parameter, which may be sharded."""
    if not is_sharded(parameter):
        parameter.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor  # slow to import, and needed only for sharding

    target: Any = parameter
    parameter.copy_(distribute_tensor(value.to(parameter.device), target.device_mesh, target.placements))
