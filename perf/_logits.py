"""The task `logits` of train_step.py: memory and time of label-only and full logits."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _small import connector_for, language_model

VIDEO_TOKENS, TEXT_TOKENS, LABELS = 512, 150, 60


def logits(config: dict[str, int], repeats: int) -> dict[str, dict[str, float]]:
    """Return the memory (bytes), the best time (s) and the loss of a step for each method."""
    model, batch = logits_model(config), logits_batch(config["vocab_size"])
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        _, loss = logits_step(model, batch, way)
        found[way] = {"memory": logits_memory(model, batch, way), "loss": loss, "time": float("inf")}
    for _ in range(repeats):
        for way in WAYS:
            found[way]["time"] = min(found[way]["time"], logits_step(model, batch, way)[0])
    return found


def logits_memory(model: Any, batch: Any, way: str) -> int:
    """Return the peak bytes between the start of the head and the end of its backward pass, minus those at the start.

    The profiler records every allocation; two marks in its trace show where the head begins and ends.
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    def mark(name: str) -> None:
        with record_function(name):
            pass

    def begin(_: Any, inputs: tuple[Any, ...]) -> None:
        mark("head begins")
        inputs[0].register_hook(lambda _: mark("head ends"))

    hook = model.llm.get_output_embeddings().register_forward_pre_hook(begin)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        logits_step(model, batch, way)
    hook.remove()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    times = {event["name"]: event["ts"] for event in events if event["name"] in ("head begins", "head ends")}
    held = sorted((event["ts"], event["args"]["Total Allocated"]) for event in events if event["name"] == "[memory]")
    before = [size for when, size in held if when < times["head begins"]][-1]
    return max(size for when, size in held if times["head begins"] <= when <= times["head ends"]) - before


def logits_step(model: Any, batch: Any, way: str) -> tuple[float, float]:
    """Run one forward and backward pass; return the seconds and the loss."""
    began = time.perf_counter()
    loss = WAYS[way](model, batch)
    loss.backward()
    spent = time.perf_counter() - began
    model.zero_grad()
    return spent, loss.item()


def label_only(model: Any, batch: Any) -> Any:
    """Return the loss as tinyvid computes it."""
    return model(batch).loss


def full(model: Any, batch: Any) -> Any:
    """Return the loss as transformers computes it: logits at every position, cross-entropy in float32."""
    embeddings, mask = model.embed(batch), batch.attention_mask
    return model.llm(inputs_embeds=embeddings, attention_mask=mask, labels=batch.labels, use_cache=False).loss


WAYS: dict[str, Callable[[Any, Any], Any]] = {"label_only": label_only, "full": full}


def logits_model(config: dict[str, int]) -> Any:
    """Return a model for batches with features: no tower, a small connector, an LLM with a large head."""
    import torch
    from torch import nn

    from tinyvid.models.video_llm import VideoLLM

    torch.manual_seed(0)
    llm = language_model(config)
    connector = connector_for(llm, dim=64, num_patches=16, queries=VIDEO_TOKENS, depth=1)
    tower: Any = nn.Identity()  # not called
    model = VideoLLM(llm, tower, connector).train()
    llm.get_input_embeddings().requires_grad_(False)  # also freezes the head, which is tied
    return model


def logits_batch(vocabulary: int) -> Any:
    """Return one sample: video tokens, a question, and a reply."""
    import torch

    from tinyvid.processing.batch import Batch, VideoInput
    from tinyvid.types import IGNORE_INDEX, Slot

    length = VIDEO_TOKENS + TEXT_TOKENS
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, length), generator=chance)
    places = torch.arange(length)[None]
    return Batch(
        input_ids=ids,
        labels=torch.where(places >= length - LABELS, ids, IGNORE_INDEX),
        attention_mask=torch.ones_like(ids),
        video_mask=places < VIDEO_TOKENS,
        slots=(Slot(0, ""),),
        videos=(
            VideoInput(0.0, 16.0, tuple(map(float, range(16))), features=torch.randn(16, 16, 64, generator=chance)),
        ),
    )
