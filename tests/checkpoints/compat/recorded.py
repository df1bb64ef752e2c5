"""Compare a model with the recorded outputs of its family in ``tests/data/families``."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.goldens import read_oracle
from tinyvid import Assistant, Message, Sample
from tinyvid.generation.decode import Decoding, generate
from tinyvid.models.video_llm import PARTS
from tinyvid.processing.batch import Example
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

TOLERANCE = 1e-5


def load(path: Path, name: str, **groups: Any) -> Assistant:
    """Load a model in float32 with as many frames as were recorded."""
    frames = {"num_frames": len(read_oracle(name)[0]["frames"])}
    return Assistant.from_pretrained(path, device="cpu", dtype="float32", sampler=frames, **groups)


def recorded_example(assistant: Assistant, name: str) -> Example:
    """Return the recorded question about the recorded frames, as the Processor writes it."""
    tensors, notes = read_oracle(name)
    return assistant.processor(Sample([Message("user", notes["question"])], video=tensors["frames"].numpy()))


def logits_of(assistant: Assistant, example: Example) -> torch.Tensor:
    """Return the logits (L, V) of an example."""
    batch = assistant.processor.collate([example])
    inputs = assistant.model.embed(batch)
    return assistant.model.llm(inputs_embeds=inputs, attention_mask=batch.attention_mask).logits[0]


@torch.no_grad()
def assert_equals_oracle(
    assistant: Assistant, name: str, *, example: Example | None = None, pixels: float | None = 1e-6
) -> None:
    """Check the prompt, the pixels, and the outputs of the tower, of the connector and of the LLM.

    Args:
        assistant: The model.
        name: The family.
        example: The recorded question; ``None`` for that of ``recorded_example``.
        pixels: Largest difference of pixels; ``None`` if they are resized in another way.
    """
    tensors, _ = read_oracle(name)
    example = recorded_example(assistant, name) if example is None else example
    assert torch.equal(example.video_mask, tensors["video_mask"].bool())
    text = ~example.video_mask
    assert torch.equal(example.input_ids[text], tensors["input_ids"][text])
    if pixels is not None:
        torch.testing.assert_close(example.videos[0].pixels, tensors["pixel_values"], atol=pixels, rtol=0)
    features = assistant.model.encode(tensors["pixel_values"])
    torch.testing.assert_close(features, tensors["tower"], atol=TOLERANCE, rtol=0)
    tokens = assistant.model.connector(features)
    torch.testing.assert_close(tokens, tensors["connector"], atol=TOLERANCE, rtol=0)
    example = with_pixels(example, tensors["pixel_values"])
    torch.testing.assert_close(logits_of(assistant, example), tensors["logits"], atol=TOLERANCE, rtol=0)
    batch = assistant.processor.collate([example], padding_side="left")
    reply = generate(assistant.model, assistant.processor, batch, Decoding(1), min_new_tokens=1)
    assert reply[0, 0] == tensors["greedy"][0]


def with_pixels(example: Example, pixels: torch.Tensor) -> Example:
    """Return an example with other pixels of its video."""
    return replace(example, videos=(replace(example.videos[0], pixels=pixels),))


@torch.no_grad()
def assert_converts(assistant: Assistant, example: Example, folder: Path) -> Assistant:
    """Check that a model in tinyvid's layout is equal to the bit and has the same groups, and return it."""
    assistant.save_pretrained(folder)
    again = Assistant.from_pretrained(folder, device="cpu", dtype="float32")
    assert torch.equal(logits_of(again, example), logits_of(assistant, example))
    assert all(again.config[kind] == assistant.config[kind] for kind in ("template", "sampler"))
    assert again.processor.image == assistant.processor.image
    return again


def assert_shapes_are_known(assistant: Assistant, folder: Path) -> None:
    """Check that the model of a folder has its shapes without reading weights."""
    shapes = Assistant.from_pretrained(folder, device="meta").model.state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {
        key: value.shape for key, value in assistant.model.state_dict().items()
    }


def edit(folder: Path, changes: dict[str, Any], name: str = "config.json") -> Path:
    """Change settings of a JSON file, ``section__option`` for those of a section, and return the folder."""
    file = folder / name
    config = json.loads(file.read_text())
    for key, value in changes.items():
        section, _, option = key.rpartition("__")
        (config[section] if section else config)[option] = value
    file.write_text(json.dumps(config))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the weights of a model."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def assert_lora_learns(assistant: Assistant, example: Example) -> None:
    """Check that three steps of LoRA on the LLM lower the loss of an example."""
    options = {part: PartOptions(train="lora" if part == "llm" else "frozen") for part in PARTS}
    apply(assistant.model, options, PeftOptions(rank=2), lr=1e-2)
    optimizer = torch.optim.AdamW([p for p in assistant.model.parameters() if p.requires_grad], lr=1e-2)
    batch = assistant.processor.collate([example])
    losses = []
    for _ in range(3):
        losses.append(assistant.model(batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2]
