"""Compare a model with the recorded outputs of its family in ``tests/data/families``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.goldens import read_oracle
from tinyvid import Assistant, Message, Sample
from tinyvid.generation.decode import Decoding, generate
from tinyvid.processing.batch import Example

TOLERANCE = 1e-5


def load(path: Path, name: str, **groups: Any) -> Assistant:
    """Load a model in float32 with as many frames as were recorded."""
    frames = {"num_frames": len(read_oracle(name)[0]["frames"])}
    return Assistant.from_pretrained(path, device="cpu", dtype="float32", sampler=frames, **groups)


def recorded_example(assistant: Assistant, name: str) -> Example:
    """Return the recorded question about the recorded frames, as the Processor writes it."""
    tensors, notes = read_oracle(name)
    return assistant.processor(Sample([Message("user", notes["question"])], video=tensors["frames"].numpy()))


@torch.no_grad()
def assert_equals_oracle(assistant: Assistant, name: str, *, pixels: float = 1e-6) -> None:
    """Check the prompt, and the outputs of the tower, of the connector and of the LLM."""
    tensors, _ = read_oracle(name)
    example = recorded_example(assistant, name)
    assert torch.equal(example.video_mask, tensors["video_mask"])
    text = ~example.video_mask
    assert torch.equal(example.input_ids[text], tensors["input_ids"][text])
    torch.testing.assert_close(example.videos[0].pixels, tensors["pixel_values"], atol=pixels, rtol=0)
    features = assistant.model.encode(tensors["pixel_values"])
    torch.testing.assert_close(features, tensors["tower"], atol=TOLERANCE, rtol=0)
    tokens = assistant.model.connector(features)
    torch.testing.assert_close(tokens, tensors["connector"], atol=TOLERANCE, rtol=0)
    video = replace(example.videos[0], pixels=tensors["pixel_values"])
    batch = assistant.processor.collate([replace(example, videos=(video,))], padding_side="left")
    embeddings = assistant.model.embed(batch)
    logits = assistant.model.llm(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits[0]
    torch.testing.assert_close(logits, tensors["logits"], atol=TOLERANCE, rtol=0)
    reply = generate(assistant.model, assistant.processor, batch, Decoding(1), min_new_tokens=1)
    assert reply[0, 0] == tensors["greedy"][0]
