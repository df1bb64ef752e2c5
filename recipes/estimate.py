"""Estimate the memory of a run: ``python recipes/estimate.py --help`` lists the options.

Takes the arguments of ``recipes/train.py`` and prints which parts train, how many tokens a sample has and how much
memory a step needs. Loads no weights. ``card_gb=24`` also suggests changes that make the run fit on a 24 GB GPU.
"""

import json
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.config import CHANGEABLE, PARTS
from tinyvid.diagnostics.estimate import Advice, Estimate, advise, estimate
from tinyvid.errors import ConfigError
from tinyvid.training import trainable

GB = 10**9


def main(config: DictConfig, line: CommandLine) -> None:
    """Print the estimate of the composed run."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    if settings["ckpt"] is not None:
        groups = line.checkpoint_groups(config, allow=("experiment",))
        groups = {kind: group or {} for kind, group in groups.items()}  # an empty group removes the checkpoint's
        settings |= {kind: groups.get(kind) for kind in (*CHANGEABLE, *PARTS)}  # null keeps it
    check_sample(settings)
    result = estimate(settings)
    advice = None if settings["card_gb"] is None else advise(settings, int(settings["card_gb"] * GB))
    print(as_json(result, advice) if settings["json"] else as_text(result, settings, advice))


def check_sample(settings: dict[str, Any]) -> None:
    """Check the numbers that describe the assumed sample.

    Raises:
        ConfigError: A number is not positive, or ``label_tokens`` exceeds ``text_tokens``.
    """
    for key in ("duration", "fps", "text_tokens", "label_tokens", "card_gb"):
        value = settings[key]
        if value is None and key == "card_gb":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{key}={value!r} must be a positive number")
    labels, text = settings["label_tokens"], settings["text_tokens"]
    if labels > text:
        raise ConfigError(f"label_tokens={labels} exceeds text_tokens={text}; labels are part of the text")


def as_text(result: Estimate, settings: dict[str, Any], advice: Advice | None) -> str:
    """Format the estimate as plain-text tables."""
    blocks = [trainable.table(result.parts), tokens(result, settings), memory(result, settings)]
    if advice is not None:
        blocks.append(verdict(advice, settings["card_gb"]))
    return "\n\n".join(blocks)


def tokens(result: Estimate, settings: dict[str, Any]) -> str:
    """Format the token counts of a sample, with a warning if it is too long."""
    plan = result.tokens
    text = (
        f"sample: {settings['duration']:g} s at {settings['fps']:g} frames/s -> {plan.frames} frames -> "
        f"{plan.video:,} video + {plan.text:,} text = {plan.length:,} tokens ({plan.labels:,} label tokens)"
    )
    if plan.length > plan.limit:
        text += f"\n  too long: llm.max_length={plan.limit:,}; training will reject this sample"
    return text


def memory(result: Estimate, settings: dict[str, Any]) -> str:
    """Format the memory of a training step, one component per line."""
    need, recipe = result.memory, settings["recipe"]
    rows = [(f"weights of the {part}", size, "") for part, size in need.weights.items()]
    rows += [
        ("gradients", need.gradients, "float32, of trainable weights"),
        ("optimizer", need.optimizer, recipe["optimizer"]),
        ("copies", need.copies, "of weights, in the compute dtype"),
        ("activations (estimate)", need.activations, activations(result)),
        ("logits", need.logits, f"at label positions; all positions would take {gigabytes(result.logits_full)}"),
        ("optimizer's step", need.step, "replaces copies, activations and logits; the larger counts"),
        ("overhead", need.overhead, "CUDA context and fragmentation, a constant"),
        ("total", need.total, f"peak memory of a step, recipe.batch_size={result.batch_size}"),
    ]
    lines = [f"{name:<28}{gigabytes(size):>10}  {note}".rstrip() for name, size, note in rows]
    return "\n".join(lines)


def activations(result: Estimate) -> str:
    """Format the memory of activations with and without gradient checkpointing."""
    with_it, without = gigabytes(result.activations_checkpointed), gigabytes(result.activations_kept)
    return f"with recipe.gradient_checkpointing {with_it}, without {without}"


def verdict(advice: Advice, card_gb: float) -> str:
    """Format whether the run fits, and what to change if it does not."""
    changes = " ".join(f"{key}={written(value)}" for key, value in advice.changes.items())
    if not advice.fits:
        return f"does not fit {card_gb:g} GB: {gigabytes(advice.total)} even with {changes or 'nothing left to change'}"
    free = gigabytes(int(card_gb * GB) - advice.total)
    if not changes:
        return f"fits {card_gb:g} GB, {free} free"
    return f"does not fit {card_gb:g} GB; fits with: {changes}\n  then {gigabytes(advice.total)}, {free} free"


def as_json(result: Estimate, advice: Advice | None) -> str:
    """Format everything as one JSON object, with sizes in bytes."""
    content = asdict(result)
    content["tokens"]["length"] = result.tokens.length
    content["memory"]["total"] = result.memory.total
    content["advice"] = None if advice is None else asdict(advice)
    return json.dumps(content)


def written(value: Any) -> str:
    """Format a value for the command line."""
    return {True: "true", False: "false", None: "null"}[value] if value is None or value is True else str(value)


def gigabytes(size: int) -> str:
    """Format a number of bytes in GB."""
    return f"{size / GB:.2f} GB"


if __name__ == "__main__":
    run_hydra(main, config="estimate")
