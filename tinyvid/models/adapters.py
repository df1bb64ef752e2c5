"""Read and write LoRA adapters in peft's layout, and access the part beneath an adapter.

peft's own reader is not used on untrusted folders, because a configuration may contain a module to import and regular
expressions for layer names. Only the options that change the computation are read here and passed to peft.
"""

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tinyvid.errors import CheckpointError, raised_as
from tinyvid.files import read_json
from tinyvid.models.weights import few, read_tensors

OWN = "default"  # the adapter that a part is loaded or trained with, as peft calls it
NAMES = ("target_modules", "exclude_modules")  # lists of layer names; peft treats a string as a regular expression
MAX_NAMES = 1000  # each is compared with each layer
OPTIONS = ("r", "lora_alpha", "lora_dropout", *NAMES, "use_rslora", "use_dora", "task_type")
# Metadata without an effect on the computation.
NOTES = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision")
ADVICE = "check its configuration and its weights"
DERIVED = ("fan_in_fan_out",)  # determined by the layers themselves


def is_adapted(module: nn.Module) -> bool:
    """Return whether a part has an adapter."""
    return hasattr(module, "peft_config")


def base(module: Any) -> Any:
    """Return the part beneath an adapter. Its layers stay wrapped; ``base_state`` returns the plain weights."""
    return module.get_base_model() if is_adapted(module) else module


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer is a ``Conv1D`` of transformers: linear, with transposed weights, as in GPT-2."""
    from transformers.pytorch_utils import Conv1D  # heavy

    return isinstance(layer, Conv1D)


def is_quantized(module: Any) -> bool:
    """Return whether the weights of a part are quantized by bitsandbytes, as transformers reports it."""
    return getattr(base(module), "is_quantized", False)


def base_state(module: Any) -> dict[str, Tensor]:
    """Return the state dict of a part as if it had no adapter."""
    state = base(module).state_dict()
    if not is_adapted(module):
        return dict(state)
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


def without(module: Any) -> Any:
    """Return a part without its adapter; a copy if it has one."""
    return copy.deepcopy(module).unload() if is_adapted(module) else module


def merged(module: Any) -> Any:
    """Return a part with its adapter merged into its weights. The part is changed in place.

    Raises:
        CheckpointError: The weights are quantized, so merging would round them.
    """
    if not is_adapted(module):
        return module
    if is_quantized(module):
        raise CheckpointError("an adapter cannot be merged into quantized weights; load with quant=none to merge")
    return module.merge_and_unload()


def save(module: Any, folder: Path) -> None:
    """Write an adapter in peft's layout, which peft can load without tinyvid."""
    # Embeddings are never trained. To check that, peft would look up the base model on the hub.
    module.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[OWN])


def has_own(module: nn.Module) -> bool:
    """Return whether a part has an adapter that belongs to it, not only ones that were added by name."""
    return OWN in getattr(module, "peft_config", {})


def choose(module: Any, name: str | None) -> None:
    """Let a part that has adapters use the one with this name, or none if there is none."""
    if name in module.peft_config:
        module.base_model.enable_adapter_layers()
        module.set_adapter(name)
    else:
        module.base_model.disable_adapter_layers()


def load(part: str, module: Any, folder: Path, name: str = OWN) -> Any:
    """Load the adapter of a folder into a part, under a name. If that fails, the part stays as it was.

    Raises:
        CheckpointError: The adapter is not LoRA in peft's layout, or does not match the part.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # may import bitsandbytes

    options = _options(folder / "adapter_config.json")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    ranks = {value.shape[:1] for key, value in tensors.items() if ".lora_A." in key}
    rank = options.get("r", LoraConfig().r)
    if type(rank) is not int or ranks != {(rank,)}:  # compared before the adapter takes memory
        raise CheckpointError(f"{folder}: r={rank!r} does not match its weights")
    adapted = None
    try:
        with raised_as(CheckpointError, f"the adapter in {folder} does not match the {part}", ADVICE):
            config = LoraConfig(**options, fan_in_fan_out=any(map(is_transposed, base(module).modules())))
            if is_adapted(module):
                module.add_adapter(name, config)
                adapted = module
            else:
                adapted = get_peft_model(module, config, adapter_name=name)
            result = set_peft_model_state_dict(adapted, tensors, adapter_name=name)
        missing = [key for key in result.missing_keys if ".lora_" in key and f".{name}." in f"{key}."]
        if missing or result.unexpected_keys:
            raise CheckpointError(
                f"the adapter in {folder} does not match the {part}: missing keys {few(missing)}, "
                f"unexpected keys {few(result.unexpected_keys)}"
            )
    except BaseException:
        if adapted is not None and name in adapted.peft_config:
            adapted.delete_adapter(name) if adapted is module else adapted.unload()
        raise
    return adapted.eval()


def _options(file: Path) -> dict[str, Any]:
    """Return the options of an adapter's configuration that are passed to peft."""
    from peft import LoraConfig

    config = read_json(file)
    defaults, known = LoraConfig().to_dict(), (*OPTIONS, *NOTES, *DERIVED)
    strange = [k for k, v in config.items() if k not in known and v not in (defaults.get(k), [], {}, None)]
    if config.get("peft_type") != "LORA" or strange:
        raise CheckpointError(
            f"{file}: {strange or 'peft_type'} is not supported; only plain LoRA, rsLoRA and DoRA are"
        )
    for key in NAMES:
        names = config.get(key) or []
        if not isinstance(names, list) or len(names) > MAX_NAMES or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"{file}: {key} must be a list of layer names, at most {MAX_NAMES:,}, got {names!r:.80}"
            )
    if not config.get("target_modules"):
        raise CheckpointError(f"{file}: target_modules must be a list of layer names, but it is empty")
    return {option: config[option] for option in OPTIONS if option in config}
