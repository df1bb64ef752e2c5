"""The task `caching` of train_step.py: epochs with and without features, and the loading of clips."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _small import connector_for, language_model, processor_for, sample, write_clips

BATCH = 4  # batch size of the epochs
VIDEO_TOKENS = 512  # per loaded clip


def caching(folder: str, sizes: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Measure epochs and the loading of clips."""
    return [epochs(Path(folder), sizes[0], repeats), loading(Path(folder), sizes[1], repeats)]


def epochs(folder: Path, sizes: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Return the best seconds per epoch of each stage, and the GFLOP, with and without cached features."""
    from tinyvid.caches import FeatureCache, tower_key

    model, processor, optimizer = small_model(sizes)
    cache = FeatureCache(folder / "features", max_gib=1, tower_key=tower_key(model.vision_tower, {}))
    samples = [sample(path) for path in write_clips(folder, "epoch", sizes["clips"], sizes["video"])]
    batches = [samples[i : i + BATCH] for i in range(0, len(samples), BATCH)]
    caches = {"uncached": None, "cached": cache}

    def step(way: str, chosen: list[Any]) -> list[float]:
        processor.features = caches[way]
        return train_step(model, processor, optimizer, chosen)

    for way in caches:  # warm up and, without a measurement, fill the cache
        for chosen in batches:
            step(way, chosen)
    result: dict[str, Any] = {
        f"{way}_gflop": len(batches) * operations(partial(step, way, batches[0])) for way in caches
    }
    best: dict[tuple[str, int], list[float]] = {}
    fastest = 0.0
    for _ in range(repeats):
        for number, chosen in enumerate(batches):
            fastest = max(fastest, matmul_peak())
            for way in caches:
                spent = step(way, chosen)
                best[way, number] = min(spent, best.get((way, number), spent), key=sum)
    assert cache.store.statistics.hits > 0
    for way in caches:
        stages = [sum(times) for times in zip(*(best[way, i] for i in range(len(batches))), strict=True)]
        result[way] = dict(zip(("processor", "tower", "step"), stages, strict=True))
    return result | {"samples": len(samples), "peak": fastest}


def train_step(model: Any, processor: Any, optimizer: Any, samples: list[Any]) -> list[float]:
    """Run the training program's step; return the seconds of the Processor, the tower, and the rest."""
    began = time.perf_counter()
    batch = processor.collate([processor(one) for one in samples])
    loaded = time.perf_counter()
    batch = model.fill_features(batch, processor.features)  # encodes videos without features
    seen = time.perf_counter()
    model(batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return [loaded - began, seen - loaded, time.perf_counter() - seen]


def operations(run: Callable[[], Any]) -> float:
    """Return the GFLOP of ``run``, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def matmul_peak() -> float:
    """Return the speed of the fastest of three matrix products, in GFLOP/s."""
    import torch

    best = 0.0
    for size in (512, 1024, 1536):
        a, b = torch.randn(size, size), torch.randn(size, size)
        for _ in range(3):
            began = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def small_model(sizes: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return a model whose LLM and connector train in full, its Processor, and the optimizer."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from tinyvid.models.video_llm import PARTS, VideoLLM
    from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
    from tinyvid.training.trainable import PartOptions, PeftOptions, apply, parameter_groups

    torch.manual_seed(0)
    heads = sizes["tower"]["hidden_size"] // 64
    config = SiglipVisionConfig(**sizes["tower"], num_attention_heads=heads, image_size=112, patch_size=14)
    tower = SiglipTower(SiglipVisionModel(config), default_image_spec(config))
    llm = language_model(sizes["llm"] | {"vocab_size": 1024})
    shape = tower.features
    connector = connector_for(llm, dim=shape.dim, num_patches=shape.num_patches, queries=sizes["queries"], depth=1)
    model = VideoLLM(llm, tower, connector)
    parts = {part: PartOptions(train="frozen" if part == "vision_tower" else "full") for part in PARTS}
    apply(model, parts, PeftOptions(), lr=1e-5)
    model.train()
    groups = parameter_groups(model, parts, lr=1e-5, weight_decay=0.0)
    return model, processor_for(tower.image, connector, num_frames=8), torch.optim.AdamW(groups, fused=True)


def loading(folder: Path, sizes: dict[str, Any], repeats: int) -> dict[str, float]:
    """Return the best seconds per sample of each source that the Processor can load a clip from."""
    import torch

    from tinyvid.caches import FeatureCache, FrameCache
    from tinyvid.types import ImageSpec, TokenBudget, TokenSpec

    half = (0.5, 0.5, 0.5)

    class FakeConnector:
        tokens = TokenSpec(TokenBudget(fixed=VIDEO_TOKENS))

    processor = processor_for(ImageSpec(size=sizes["size"], mean=half, std=half), FakeConnector, num_frames=16)
    samples = [sample(path) for path in write_clips(folder, "loading", sizes["clips"], sizes["video"])]
    features = FeatureCache(folder / "kept", max_gib=1, tower_key="random")
    sources = {
        "decoding": (None, None),
        "frames cache": (FrameCache(folder / "frames", max_gib=1), None),
        "frames, jpeg": (FrameCache(folder / "jpegs", max_gib=1, format="jpeg"), None),
        "feature cache": (None, features),
    }
    processor.features = features
    for one in samples:
        features.write(processor(one).videos[0].key, torch.randn(sizes["features"], dtype=torch.bfloat16))
    best = {source: [float("inf")] * len(samples) for source in sources}
    for turn in range(repeats + 1):
        for source, (processor.frames, processor.features) in sources.items():
            for number, one in enumerate(samples):
                began = time.perf_counter()
                processor(one)
                spent = time.perf_counter() - began
                best[source][number] = min(best[source][number], spent) if turn else float("inf")  # the first fills
    return {source: sum(times) / len(times) for source, times in best.items()}
