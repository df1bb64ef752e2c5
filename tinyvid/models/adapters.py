"""LoRA adapters on parts: read and write peft's layout, and see the part beneath.

peft's own reader is not used on a stranger's folder, because its configuration may name a module to import and layer
names that are regular expressions. The few options that change the arithmetic are read here, and peft builds from them.
"""

import copy
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tinyvid.errors import CheckpointError
from tinyvid.models.weights import few, read_tensors

NAMES = ("target_modules", "exclude_modules")  # of layers; as text they would be regular expressions
OPTIONS = ("r", "lora_alpha", "lora_dropout", *NAMES, "use_rslora", "use_dora", "task_type")
# Notes about where an adapter came from, which change nothing.
NOTES = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision")


def is_adapted(module: nn.Module) -> bool:
    """Return whether a part carries an adapter."""
    return hasattr(module, "peft_config")


def base(module: Any) -> Any:
    """Return the part beneath its adapter. Its layers stay wrapped; see ``base_state`` for its plain weights."""
    return module.get_base_model() if is_adapted(module) else module


def is_quantized(module: Any) -> bool:
    """Return whether the weights of a part are those of bitsandbytes, of which transformers tells so."""
    return getattr(base(module), "is_quantized", False)


def base_state(module: Any) -> dict[str, Tensor]:
    """Return the state dict of a part as if it had no adapter."""
    state = base(module).state_dict()
    if not is_adapted(module):
        return dict(state)
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


def without(module: Any) -> Any:
    """Return a part without its adapter, as a copy if it has one."""
    return copy.deepcopy(module).unload() if is_adapted(module) else module


def merged(module: Any) -> Any:
    """Return a part with its adapter added to its weights. The part is used up.

    Raises:
        CheckpointError: The weights are quantized, so that the sum would be rounded.
    """
    if not is_adapted(module):
        return module
    if is_quantized(module):
        raise CheckpointError("an adapter cannot be merged into quantized weights; load with quant=none to merge")
    return module.merge_and_unload()


def save(module: Any, folder: Path) -> None:
    """Write an adapter in peft's layout, loadable by peft alone."""
    # The embeddings are never trained, and looking whether they were would ask the hub for the base model.
    module.save_pretrained(folder, save_embedding_layers=False)


def load(part: str, module: nn.Module, folder: Path) -> Any:
    """Put the adapter of a folder onto a part.

    Raises:
        CheckpointError: The adapter is not LoRA as peft writes it, or does not fit the part.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # may import bitsandbytes

    config = LoraConfig(**_options(folder / "adapter_config.json"))
    tensors = read_tensors(folder / "adapter_model.safetensors")
    try:
        adapted = get_peft_model(module, config)
        result = set_peft_model_state_dict(adapted, tensors)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the adapter in {folder} does not fit the {part}: {str(error).splitlines()[0]}"
        ) from error
    missing = [key for key in result.missing_keys if ".lora_" in key]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"the adapter in {folder} does not fit the {part}: missing keys {few(missing)}, "
            f"unexpected keys {few(result.unexpected_keys)}"
        )
    return adapted.eval()


def _options(file: Path) -> dict[str, Any]:
    """Return the options of an adapter's configuration that peft may build from."""
    from peft import LoraConfig

    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    defaults = LoraConfig().to_dict()
    strange = [k for k, v in config.items() if k not in (*OPTIONS, *NOTES) and v not in (defaults.get(k), [], {}, None)]
    if config.get("peft_type") != "LORA" or strange:
        raise CheckpointError(
            f"{file}: only plain LoRA, rsLoRA and DoRA are read; it also sets {strange or 'peft_type'}"
        )
    for key in NAMES:
        names = config.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{file}: {key} must be a list of layer names, got {names!r:.80}")
    if not config.get("target_modules"):
        raise CheckpointError(f"{file}: target_modules must be a list of layer names, got none")
    return {option: config[option] for option in OPTIONS if option in config}
