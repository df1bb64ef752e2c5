"""Select the weights to train, part by part: freeze, train fully, train the upper layers, or add LoRA.

Trained weights are float32 even if frozen weights are not, so small updates are not lost to rounding. LoRA is that of
peft, so peft can load an adapter without tinyvid. QLoRA is LoRA on an LLM that was loaded with ``quant=nf4``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from tinyvid.errors import ConfigError, raised_as, suggest
from tinyvid.models.adapters import base, is_adapted, is_quantized, is_transposed
from tinyvid.models.video_llm import PARTS, VideoLLM
from tinyvid.registry import PositiveFloat, PositiveInt

TEXT_DECODER = "text_decoder"  # a module of the connector, and a separate part for training if it is pretrained
LAYER = re.compile(r"\.(?:layers?|blocks|resblocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class PartOptions:
    """Training options of one part.

    Attributes:
        train: ``frozen``, ``full``, or ``lora``.
        from_layer: With ``full``, the first layer to train, counted from 0; ``null`` for the whole part.
        lr: Learning rate of the part; ``null`` for the recipe's.
        freeze: Names of modules of the part that stay frozen and get no adapter.
    """

    train: Literal["frozen", "full", "lora"] = "frozen"
    from_layer: int | None = None
    lr: PositiveFloat | None = None
    freeze: list[str] = ()  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class PeftOptions:
    """LoRA options of peft, for the parts with ``train=lora``.

    Attributes:
        rank: r, the rank of the update.
        alpha: Scale of the update: alpha / r, or alpha / sqrt(r) with ``use_rslora``.
        dropout: Dropout of the adapter's input during training.
        targets: Names of linear layers; ``null`` for all linear layers except the LM head.
        use_rslora: Rank-stabilized scaling (arXiv:2312.03732).
        use_dora: Weight-decomposed updates (arXiv:2402.09353).
    """

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: float = 0.05
    targets: list[str] | None = None
    use_rslora: bool = False
    use_dora: bool = False


@dataclass(frozen=True, slots=True)
class PartReport:
    """How a part is trained, with its parameter counts: one row of ``table``."""

    part: str
    how: str
    parameters: int
    trainable: int
    dtype: str
    lr: float | None


def apply(model: VideoLLM, parts: Mapping[str, PartOptions], peft: PeftOptions, *, lr: float) -> list[PartReport]:
    """Freeze and unfreeze the parts of a model, add adapters, and return a report on each part.

    Args:
        model: The model, changed in place.
        parts: Options of ``llm``, ``vision_tower``, ``connector`` and, unless it is frozen, ``text_decoder``.
        peft: Options of parts with ``train=lora``.
        lr: Learning rate of parts without their own.

    Raises:
        ConfigError: No part is trained, a quantized part has ``train=full``, or ``from_layer``, ``freeze`` or
            ``targets`` match nothing.
    """
    for name in PARTS:
        setattr(model, name, _adapt(name, model.get_submodule(name), parts[name], peft))
    _adapt_text_decoder(model, parts.get(TEXT_DECODER, PartOptions()))
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("every part is frozen, so there is nothing to train; set recipe.connector.train=full")
    return [
        _report(name, list(own.values()), parts.get(name, PartOptions()), lr, quantized=is_quantized(model.llm))
        for name, own in _parameters(model).items()
    ]


def text_decoder(model: VideoLLM) -> Any | None:
    """Return the connector's text decoder if it is pretrained, and so a separate part for training."""
    decoder = model.connector.text_decoder
    return decoder if decoder is not None and decoder.pretrained else None


def _parameters(model: VideoLLM) -> dict[str, dict[str, nn.Parameter]]:
    """Return the parameters of each part by name. Those of a pretrained text decoder are not the connector's."""
    parts = {name: dict(model.get_submodule(name).named_parameters()) for name in PARTS}
    if (decoder := text_decoder(model)) is not None:
        parts[TEXT_DECODER] = dict(decoder.named_parameters())
        within = {id(p) for p in parts[TEXT_DECODER].values()}
        parts["connector"] = {key: p for key, p in parts["connector"].items() if id(p) not in within}
    return parts


def _adapt_text_decoder(model: VideoLLM, options: PartOptions) -> None:
    decoder = text_decoder(model)
    if options.train == "lora":
        raise ConfigError(f"recipe.{TEXT_DECODER}.train=lora is not supported; use full or frozen")
    if decoder is not None:
        _adapt(TEXT_DECODER, decoder, options, PeftOptions())
    elif options.train == "full":
        raise ConfigError(
            f"recipe.{TEXT_DECODER}.train=full, but this model has no pretrained text decoder, which could be trained "
            "separately from the connector; use recipe.connector.train=full"
        )


def parameter_groups(
    model: VideoLLM, parts: Mapping[str, PartOptions], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: for each part, one with weight decay and one without (biases, norms, vectors)."""
    groups = []
    for name, own in _parameters(model).items():
        trained = [p for p in own.values() if p.requires_grad]
        rate = parts.get(name, PartOptions()).lr or lr
        for decay, chosen in (
            (weight_decay, [p for p in trained if p.ndim >= 2]),
            (0.0, [p for p in trained if p.ndim < 2]),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay, "name": f"{name}/{decay:g}"})
    return groups


def _adapt(name: str, module: Any, options: PartOptions, peft: PeftOptions) -> Any:
    if options.train == "lora":
        module = _with_lora(name, module, options, peft)
    elif is_adapted(module):
        raise ConfigError(f"recipe.{name}.train={options.train}, but the {name} has a LoRA adapter; merge it first")
    else:
        module.requires_grad_(False)
        if options.train == "full":
            _unfreeze(name, module, options.from_layer)
    for child in options.freeze:
        _freeze_child(name, base(module), child)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return module


def _with_lora(name: str, module: Any, options: PartOptions, peft: PeftOptions) -> Any:
    """Return a part in which only the adapter is trained, which is its existing or a new one."""
    if options.from_layer is not None:
        raise ConfigError(f"recipe.{name}.from_layer={options.from_layer} needs recipe.{name}.train=full, not lora")
    if not is_adapted(module):
        module = _add_lora(name, module, peft, options.freeze)
    else:
        _refuse_other_adapter(name, module.active_peft_config, peft)
    for key, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in key)
    return module


def _refuse_other_adapter(name: str, adapter: Any, peft: PeftOptions) -> None:
    """Raise ConfigError if options differ from those of an existing adapter, which training does not change."""
    found = {
        "rank": adapter.r,
        "alpha": adapter.lora_alpha,
        "dropout": adapter.lora_dropout,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
    }
    if peft.targets is not None:
        found["targets"] = {target.rpartition(".")[2] for target in adapter.target_modules}
    given = asdict(peft) | {"targets": set(peft.targets or ())}
    wrong = [key for key, value in found.items() if given[key] != value]
    if wrong:
        chosen, needed = (
            " ".join(f"peft.{key}={_as_override(values[key])}" for key in wrong) for values in (given, found)
        )
        raise ConfigError(
            f"{chosen}, but the {name} has an adapter with {needed}; set these values, or merge the adapter first "
            "(recipes/export.py)"
        )


def _as_override(value: Any) -> str:
    return f"[{','.join(sorted(value))}]" if isinstance(value, set) else str(value).lower()


def _unfreeze(name: str, module: nn.Module, from_layer: int | None) -> None:
    if is_quantized(module):
        raise ConfigError(f"recipe.{name}.train=full, but its weights are quantized; use train=lora, or quant=none")
    if from_layer is None:
        module.requires_grad_(True)
        return
    numbers = {key: int(found[1]) for key, _ in module.named_parameters() if (found := LAYER.search(f".{key}"))}
    deepest = max(numbers.values(), default=-1)
    if not 0 <= from_layer <= deepest:
        raise ConfigError(
            f"recipe.{name}.from_layer={from_layer} is out of range: the {name} has layers 0 .. {deepest}"
        )
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(numbers.get(key, -1) >= from_layer)


def _freeze_child(name: str, module: nn.Module, child: str) -> None:
    children = dict(module.named_children())
    if child not in children:
        raise ConfigError(f"recipe.{name}.freeze={child!r} is not a module of the {name}. {suggest(child, children)}")
    children[child].requires_grad_(False)


def _add_lora(name: str, module: Any, options: PeftOptions, freeze: Sequence[str]) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model  # imports bitsandbytes, so only for LoRA

    decoder = module.text_decoder if name == "connector" else None  # a separate part, or frozen
    excluded = [*freeze, *([TEXT_DECODER] if decoder is not None and decoder.pretrained else [])]
    targets = _targets(name, module, options.targets, excluded)
    # peft also matches layers whose names end with a target, such as "mixer.layers.0.key" for "layers.0.key".
    below = [key for key, _ in module.named_modules() if key.partition(".")[0] in excluded]
    unintended = [key for key in below if any(f".{key}".endswith(f".{target}") for target in targets)]
    is_mpt = getattr(getattr(module, "config", None), "model_type", None) == "mpt"  # peft's wrapper takes only ids
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        fan_in_fan_out=any(map(is_transposed, module.modules())),
        exclude_modules=unintended or None,
        task_type=TaskType.CAUSAL_LM if name == "llm" and not is_mpt else None,
    )
    layers = f"peft.targets=[{','.join(sorted({target.rpartition('.')[2] for target in targets}))}]"
    with raised_as(ConfigError, f"recipe.{name}.train=lora", f"choose other layers than {layers}"):
        return get_peft_model(module, config)


def _targets(name: str, module: nn.Module, wanted: list[str] | None, excluded: Sequence[str]) -> list[str]:
    """Return the linear layers that get an adapter: by last name if it is unambiguous, otherwise by full name."""
    leaves: dict[str, dict[str, bool]] = {}
    for key, child in module.named_modules():
        # bitsandbytes' layers derive from nn.Linear, so quantized models need no special case.
        is_wanted = (isinstance(child, nn.Linear) or is_transposed(child)) and key.partition(".")[0] not in excluded
        leaves.setdefault(key.rpartition(".")[2], {})[key] = is_wanted
    linear = {leaf: keys for leaf, keys in leaves.items() if any(keys.values()) and leaf != "lm_head"}
    unknown = [target for target in wanted or [] if target not in linear]
    if unknown:
        raise ConfigError(f"peft.targets={unknown} match no linear layer of the {name}; it has {sorted(linear)}")
    if not linear and excluded:
        raise ConfigError(
            f"recipe.{name}.freeze={[*excluded]} leaves no linear layer of the {name} to train; freeze fewer modules"
        )
    if not linear:
        raise ConfigError(f"recipe.{name}.train=lora, but the {name} has no linear layers; use full or frozen")
    chosen = {leaf: linear[leaf] for leaf in wanted or linear}
    return sorted(
        target
        for leaf, keys in chosen.items()
        for target in ([leaf] if all(keys.values()) else [key for key, is_wanted in keys.items() if is_wanted])
    )


def _report(
    name: str, parameters: list[nn.Parameter], options: PartOptions, lr: float, *, quantized: bool
) -> PartReport:
    trainable = [p for p in parameters if p.requires_grad]
    how = options.train if options.from_layer is None else f"from layer {options.from_layer}"
    if options.train == "lora" and name == "llm" and quantized:
        how = "qlora"
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in (trainable or parameters)})
    return PartReport(
        part=name,
        how=how,
        parameters=sum(_count(p) for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        dtype=", ".join(dtypes),
        lr=(options.lr or lr) if trainable else None,
    )


def _count(parameter: torch.Tensor) -> int:
    """Return the number of values of a parameter; bitsandbytes packs two 4-bit values into a byte."""
    quantized = getattr(parameter, "quant_state", None)
    return int(torch.Size(quantized.shape).numel()) if quantized is not None else parameter.numel()


def table(reports: list[PartReport]) -> str:
    """Return the reports as a table, with totals in the last row."""
    total = PartReport("total", "", sum(r.parameters for r in reports), sum(r.trainable for r in reports), "", None)
    lines = [f"{'part':<14}{'training':<16}{'parameters':>16}{'trainable':>16}  {'dtype':<18}{'learning rate':>14}"]
    for row in [*reports, total]:
        rate = "" if row.lr is None else f"{row.lr:g}"
        lines.append(f"{row.part:<14}{row.how:<16}{row.parameters:>16,}{row.trainable:>16,}  {row.dtype:<18}{rate:>14}")
    return "\n".join(lines)
