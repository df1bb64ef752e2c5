"""Measure memory, speed and model FLOPs utilization (MFU) of LoRA and QLoRA at full size, on one CUDA device.

Builds Qwen2.5-3B, SigLIP-so400m-384 and the group connector (16 groups, 512 queries) with random weights: nothing is
downloaded, and time and memory do not depend on the values of weights. A step is that of the training program on a
batch of samples with 16 frames, 512 video and 150 text tokens, 60 of them labels: forward under autocast to
bfloat16, backward with gradient checkpointing of the LLM, clipping, optimizer. LoRA is on every linear layer of the
LLM, the connector trains in full, and the tower is frozen. `uncached` runs the tower, `cached` gets its features.

    lora     weights in bfloat16, rank 32, AdamW                   (experiment=lora_24gb)
    qlora    weights in nf4, rank 16, paged 8-bit AdamW            (experiment=qlora_12gb)

Memory is limited to that of 24 and 12 GiB GPUs: torch gets that size minus the CUDA context, and a row that does not
fit says so. `peak` is torch's maximum reserved memory plus the context, which the GPU must have; `allocated` is the
part that tensors used. Both are measured after loading.

MFU is FLOPs / time / the GPU's dense bfloat16 peak. The LLM counts 2 FLOPs per weight and token of its linear
layers, plus causal attention, three times: forward, recomputed forward (checkpointing), gradient of the activations;
frozen weights have no gradient. The head runs at label positions, without the recomputed forward. The connector
counts three times its forward, the tower once. Adapters and the optimizer are not counted. `without recompute`
excludes the recomputed forward, which is work but not progress.

The last line is one JSON object: the device, the smallest `lora_peak_gb` and `qlora_peak_gb` at batch size 1 and the
best `lora_mfu`, all uncached, and all rows.
"""

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

from _real_size import FRAMES, LABELS, METHODS, TEXT_TOKENS, VIDEO_TOKENS, build, make_batch, model_sizes, optimizer_for

WARM_UP = 3  # steps
PEAKS = {  # dense bfloat16 with float32 accumulation, TFLOP/s, from the data sheets; the first matching name counts
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "RTX 5090": 209.5,
    "RTX 4090": 165,
    "RTX 3090 Ti": 80,
    "RTX 3090": 71,
}
GIB, GB = 2**30, 1e9


def main() -> None:
    """Measure every row, print the table and the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods (default: both)")
    parser.add_argument(
        "--caps", nargs="+", type=float, default=[24, 12], help="GPU memory limits in GiB (default: 24 12)"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4], help="batch sizes (default: 1 2 4)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, after three warmup steps (default: 10)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks of the LLM, like recipe.compile=true"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="dense bfloat16 peak of the GPU; known for " + ", ".join(PEAKS)
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="two layers on the CPU, one step of batch size 1, without limits and MFU, to check that the script runs",
    )
    arguments = parser.parse_args()
    import torch

    if not arguments.tiny and not torch.cuda.is_available():
        print(
            "gpu.py needs a CUDA device, but torch found none; --tiny runs the same steps on the CPU", file=sys.stderr
        )
        sys.exit(2)
    if arguments.tiny:
        arguments.caps, arguments.batches, arguments.steps = [math.inf], [1], 1
    device = "cpu" if arguments.tiny else "cuda"
    name = "CPU" if arguments.tiny else torch.cuda.get_device_name()
    known = next((peak for card, peak in PEAKS.items() if card in name), None)
    peak = None if arguments.tiny else arguments.peak_tflops or known
    print(f"{name}; torch {torch.__version__}; dense bfloat16 peak: {f'{peak:g} TFLOP/s' if peak else 'unknown'}")
    print(f"{FRAMES} frames, {VIDEO_TOKENS} video + {TEXT_TOKENS} text tokens, {LABELS} labels per sample\n")
    print(
        f"{'method':<8}{'card':>8}{'batch':>7}  {'features':<10}{'peak':>10}{'allocated':>12}{'step':>12}"
        f"{'samples/s':>11}{'TFLOP':>8}{'MFU':>7}{'without recompute':>19}"
    )
    rows = []
    for row in measure(arguments, device, peak):
        rows.append(row)
        print(line(row), flush=True)
    print("\ntargets, uncached: lora_peak_gb <= 11 and qlora_peak_gb <= 7.5 at batch 1, lora_mfu >= 0.4")
    print(json.dumps({"device": name, "peak_tflops": peak, **summary(rows), "rows": rows}))


def line(row: dict[str, Any]) -> str:
    """Format one row of the table."""
    card = f"{row['card_gib']:g} GiB" if row["card_gib"] else "-"
    head = f"{row['method']:<8}{card:>8}{row['batch']:>7}  {row['features']:<10}"
    if row["out_of_memory"]:
        return head + "out of memory"
    memory = "".join(
        f"{'-' if row[key] is None else f'{row[key]:.2f} GB':>{width}}"
        for key, width in (("peak_gb", 10), ("allocated_gb", 12))
    )
    used = [("-" if row[key] is None else f"{row[key]:.3f}") for key in ("mfu", "mfu_without_recompute")]
    return (
        head + memory + f"{row['step_seconds'] * 1000:>9.1f} ms{row['samples_per_second']:>11.2f}{row['tflop']:>8.1f}"
        f"{used[0]:>7}{used[1]:>19}"
    )


def measure(arguments: argparse.Namespace, device: str, peak_tflops: float | None) -> Iterator[dict[str, Any]]:
    """Build each method's model once, and yield a row for every memory limit, batch size and source of features."""
    sizes = model_sizes(tiny=arguments.tiny)
    for method in arguments.methods:
        cap(max(arguments.caps))
        model, parts = build(method, sizes, device)
        if arguments.compile:
            for block in model.llm.get_decoder().layers:
                block.compile()
        optimizer = optimizer_for(method, model, parts)
        work = operations(model, sizes)
        for card, size, features in product(arguments.caps, arguments.batches, ("uncached", "cached")):
            row = {"method": method, "card_gib": card if card < math.inf else None, "batch": size, "features": features}
            cap(card)
            measured = try_steps(model, optimizer, sizes, row, arguments.steps)
            if measured is None:
                yield row | {"out_of_memory": True}
                continue
            done = {part: size * count for part, count in work.items() if (part, features) != ("tower", "cached")}
            tflop, seconds = sum(done.values()), measured["step_seconds"]
            mfu = [None, None]
            if peak_tflops is not None:
                mfu = [round(x / seconds / peak_tflops, 4) for x in (tflop, tflop - done["recompute"])]
            yield (
                row
                | measured
                | {
                    "out_of_memory": False,
                    "samples_per_second": round(size / seconds, 3),
                    "tflop": round(tflop, 6),
                    "mfu": mfu[0],
                    "mfu_without_recompute": mfu[1],
                }
            )
        del model, optimizer


def summary(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the target values: the smallest peak of each method at batch size 1, and LoRA's best MFU, uncached."""
    fits = [row for row in rows if not row["out_of_memory"] and row["features"] == "uncached"]
    peaks = {
        f"{method}_peak_gb": [row["peak_gb"] for row in fits if row["method"] == method and row["batch"] == 1]
        for method in METHODS
    }
    mfu = [row["mfu"] for row in fits if row["method"] == "lora"]
    return {key: min(filter(None, found), default=None) for key, found in peaks.items()} | {
        "lora_mfu": max(filter(None, mfu), default=None)
    }


def cap(card_gib: float) -> None:
    """Empty torch's memory pool, and limit it to what a GPU of this size would have."""
    import torch

    if not torch.cuda.is_available() or card_gib == math.inf:
        return
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, (card_gib * GIB - context_bytes()) / total))


def context_bytes() -> int:
    """Return the used GPU memory outside torch's pool: the CUDA context and other programs."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def try_steps(model: Any, optimizer: Any, sizes: dict[str, Any], row: dict[str, Any], steps: int) -> Any:
    """Return the seconds and the memory of a step, or ``None`` if it does not fit."""
    import torch

    try:
        batch = make_batch(model, sizes, row["batch"], cached=row["features"] == "cached")
        return time_steps(model, optimizer, batch, steps)
    except torch.OutOfMemoryError:
        optimizer.zero_grad()
        optimizer.state.clear()  # it may be incomplete
        return None


def time_steps(model: Any, optimizer: Any, batch: Any, steps: int) -> dict[str, float | None]:
    """Return the mean seconds of a step, and its peak and allocated memory in GB."""
    import torch

    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        loss = step(model, optimizer, batch)
    if not math.isfinite(loss.item()):  # also waits for the device
        raise RuntimeError(f"the loss is {loss.item()}")
    began = time.perf_counter()
    for _ in range(steps):
        step(model, optimizer, batch)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / steps
    return {
        "peak_gb": round((torch.cuda.max_memory_reserved() + context_bytes()) / GB, 3) if on_gpu else None,
        "allocated_gb": round(torch.cuda.max_memory_allocated() / GB, 3) if on_gpu else None,
        "step_seconds": round(seconds, 5),
    }


def step(model: Any, optimizer: Any, batch: Any) -> Any:
    """Run the training program's step on a batch; return the loss."""
    import torch

    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        loss = model(batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def operations(model: Any, sizes: dict[str, Any]) -> dict[str, float]:
    """Return the TFLOP of a sample, counted as the docstring of this file describes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    llm, length = sizes["llm"], VIDEO_TOKENS + TEXT_TOKENS
    width, heads = llm["hidden_size"], llm["num_attention_heads"]
    kept = width * llm["num_key_value_heads"] // heads
    weights = 2 * width * width + 2 * width * kept + 3 * width * llm["intermediate_size"]
    # Causal attention: scores and sums over half of the pairs, 2 operations each.
    forward = llm["num_hidden_layers"] * (2 * weights * length + 2 * length * length * width)
    counted = {}
    tower, connector = model.vision_tower, model.connector
    frame = torch.randn(1, 3, tower.image.size, tower.image.size, device=model.device, dtype=torch.bfloat16)
    clip = torch.randn(FRAMES, tower.features.num_patches, tower.features.dim, device=model.device)
    for name, part, given in (("tower", tower, frame), ("connector", connector, clip)):
        with FlopCounterMode(display=False) as counter:
            part(given)
        counted[name] = counter.get_total_flops()
    work = {
        "llm": 2 * forward + 2 * 2 * LABELS * width * llm["vocab_size"],
        "recompute": forward,
        "connector": 3 * counted["connector"],
        "tower": FRAMES * counted["tower"],
    }
    return {part: count / 1e12 for part, count in work.items()}


if __name__ == "__main__":
    main()
