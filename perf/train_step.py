"""Measure what a training step saves with label-only logits and with caches of frames and features.

Four measurements on the CPU, with small random models and generated clips.

logits    One step (forward and backward) with 512 video and 150 text tokens, 60 of them labels, and a vocabulary of
          151,936. tinyvid runs the LM head only at label positions; transformers runs it at all 662 positions, with
          the cross-entropy in float32. The LLM has two layers of width 256, so that the logits dominate; embeddings
          and head are frozen, as with LoRA. Logits memory is torch's peak between the start of the head and the end
          of its backward pass, minus the memory at that start. `computed` is the size of three float32 tensors of
          positions x vocabulary: log-probabilities, their gradient, and the gradient of the logits.
caching   Epochs over 16 clips with and without a warm feature cache: Processor, tower, connector, LLM, optimizer.
          The frozen tower and the trainable LLM need similar compute. A cache can save the tower's share of the
          FLOPs, which torch counts during one step of each kind.
loading   Loading of 360p clips of 10 s by the Processor: as 16 frames of 384 pixels, decoded or from the frames
          cache, and as features of the size of SigLIP-so400m from the feature cache.
limits    The caching epochs compared with the limits of the machine: the FLOPs divided by the speed of the fastest
          matrix product of this run, and the time of the Processor. The larger one is the limit.

Methods alternate, and the fastest run of every step counts, because other programs on the machine can only add time.
The last line is one JSON object. `logits_memory_ratio` is the logits memory, label-only / full.
`cached_epoch_over_flops_limit` is the time ratio of cached and uncached epochs, divided by their FLOPs ratio; it is
1 if the cache saves exactly the cost of the tower.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

from _caching import BATCH, caching
from _logits import LABELS, TEXT_TOKENS, VIDEO_TOKENS, logits
from _tasks import arguments_of, run_task

LOGITS = {"vocab_size": 151_936, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2}
QUICK_LOGITS = LOGITS | {"vocab_size": 8_000, "hidden_size": 128}

# A clip has 8 frames of 112 pixels with patches of 14, and 128 video tokens.
CACHING = {
    "clips": 16,
    "llm": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4},
    "tower": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 9},
    "queries": 128,
    "video": (160, 128, 1),
}
QUICK_CACHING = CACHING | {
    "clips": 4,
    "llm": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
    "tower": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3},
}
LOADING = {"clips": 4, "video": (640, 360, 10), "size": 384, "features": (16, 729, 1152)}
QUICK_LOADING = {"clips": 2, "video": (160, 128, 1), "size": 112, "features": (16, 64, 128)}


def main() -> None:
    """Measure in child processes, print the tables and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use much smaller models, to check that the script runs")
    parser.add_argument("--repeats", type=int, default=6, help="runs of each method (default: 6)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch (default: 1; more are less stable on a shared machine)"
    )
    arguments = arguments_of(parser, TASKS)
    repeats, threads = (1 if arguments.quick else arguments.repeats), arguments.threads
    print(f"CPU, float32; threads: {threads} of {os.cpu_count()} cores; best of {repeats}; {load()}")
    report = report_logits(QUICK_LOGITS if arguments.quick else LOGITS, repeats, threads)
    with tempfile.TemporaryDirectory(prefix="train-step-") as folder:
        sizes = (QUICK_CACHING, QUICK_LOADING) if arguments.quick else (CACHING, LOADING)
        trained, loaded = child("caching", threads, folder=folder, sizes=sizes, repeats=repeats)
    report |= report_caching(trained) | report_loading(loaded)
    print(f"\n{load()}; targets: logits_memory_ratio <= 0.125, cached_epoch_over_flops_limit within 0.9 .. 1.1")
    print(json.dumps(report))


def load() -> str:
    """Return the load average, which affects the times."""
    return f"load average {os.getloadavg()[0]:.1f}"


def report_logits(config: dict[str, int], repeats: int, threads: int) -> dict[str, float]:
    """Measure label-only against full logits and print the comparison."""
    found = child("logits", threads, config=config, repeats=repeats)
    length, vocabulary = VIDEO_TOKENS + TEXT_TOKENS, config["vocab_size"]
    print(f"\nlogits: {VIDEO_TOKENS} video + {TEXT_TOKENS} text tokens, {LABELS} labels, vocabulary {vocabulary:,}")
    print(f"{'method':<14}{'step':>12}{'logits memory':>16}{'computed':>14}{'loss':>12}")
    for way, positions in (("label_only", LABELS), ("full", length)):
        computed = 3 * 4 * positions * vocabulary  # see the docstring of this file
        print(
            f"{way.replace('_', '-'):<14}{found[way]['time'] * 1000:>9.0f} ms{found[way]['memory'] / 2**20:>12.0f} MiB"
            f"{computed / 2**20:>10.0f} MiB{found[way]['loss']:>12.6f}"
        )
    saved, whole = found["label_only"], found["full"]
    report = {
        "logits_memory_ratio": round(saved["memory"] / whole["memory"], 4),
        "logits_memory_ratio_computed": round(LABELS / length, 4),
        "label_only_speedup": round(whole["time"] / saved["time"], 3),
        "loss_difference": abs(whole["loss"] - saved["loss"]),
    }
    print(f"ratio of memory {report['logits_memory_ratio']:.3f}, computed {LABELS / length:.3f}")
    return report


def report_caching(found: dict[str, Any]) -> dict[str, Any]:
    """Print the epochs with and without features, their operations, and their limits."""
    print(
        f"\ncaching and limits: {found['samples']} clips, batches of {BATCH}; "
        f"fastest matrix product {found['peak']:.1f} GFLOP/s"
    )
    print(
        f"{'epoch':<14}{'time':>10}{'Processor':>11}{'tower':>9}{'step':>9}{'GFLOP':>10}{'samples/s':>11}"
        f"{'limit':>9}{'measured/limit':>16}  bound by"
    )
    report: dict[str, Any] = {}
    for way in ("uncached", "cached"):
        row, operations = found[way], found[f"{way}_gflop"]
        spent = sum(row.values())
        limits = {"compute": operations / found["peak"], "Processor": row["processor"]}
        binds = max(limits, key=limits.__getitem__)
        print(
            f"{way:<14}{spent:>8.2f} s{row['processor']:>9.2f} s{row['tower']:>7.2f} s{row['step']:>7.2f} s"
            f"{operations:>10.1f}{found['samples'] / spent:>11.2f}{found['samples'] / limits[binds]:>9.2f}"
            f"{limits[binds] / spent:>16.2f}  {binds}"
        )
        report |= {
            f"{way}_samples_per_second": round(found["samples"] / spent, 3),
            f"{way}_measured_over_limit": round(limits[binds] / spent, 3),
            f"{way}_limit": binds,
        }
    measured = sum(found["cached"].values()) / sum(found["uncached"].values())
    predicted = found["cached_gflop"] / found["uncached_gflop"]
    print(f"cached / uncached epoch: measured {measured:.3f}, by FLOPs {predicted:.3f}")
    return {
        "cached_epoch_over_flops_limit": round(measured / predicted, 4),
        "cached_epoch_share": round(measured, 4),
        "flops_share": round(predicted, 4),
        **report,
    }


def report_loading(found: dict[str, float]) -> dict[str, float]:
    """Print the loading speed of each source."""
    print(f"\nloading\n{'source':<18}{'ms/sample':>12}{'samples/s':>12}{'vs decoding':>14}")
    for way, seconds in found.items():
        print(f"{way:<18}{seconds * 1000:>12.1f}{1 / seconds:>12.1f}{found['decoding'] / seconds:>13.1f}x")
    return {
        "frames_cache_speedup": round(found["decoding"] / found["frames cache"], 2),
        "jpeg_frames_cache_speedup": round(found["decoding"] / found["frames, jpeg"], 2),
        "feature_cache_speedup": round(found["decoding"] / found["feature cache"], 2),
    }


def child(name: str, threads: int, **task: Any) -> Any:
    """Run a task in a new process and return its output."""
    quiet = {
        "KINETO_LOG_LEVEL": "99",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }  # the profiler
    env = quiet | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return run_task(__file__, name, env=env, **task)


TASKS: dict[str, Callable[..., Any]] = {
    "logits": logits,
    "caching": caching,
}

if __name__ == "__main__":
    main()
