"""What a training step saves: logits where they are learnt from, tower features and frames that are kept.

Four measurements on the CPU, on small random models and clips that the script writes.

logits    One step (forward and backward) with 512 video and 150 text tokens, 60 of them labels, and a vocabulary of
          151,936: tinyvid's, whose LM head runs at the label positions, against transformers' own, whose head runs at
          all 662 and whose cross-entropy is in float32. The LLM has two layers of width 256, so that the logits show;
          embeddings and head are frozen, as under LoRA. Logits memory is the most that torch holds from the moment the
          head starts until its gradient has reached the hidden states, less what it held at that start; `computed`
          is three float32 tensors of positions by vocabulary: log-probabilities, their gradient, that of the logits.
caching   Epochs over 16 clips with and without a warm feature cache: Processor, tower, connector, LLM, optimiser. The
          tower and the LLM, which trains in full, do comparable work. What a cache can save is the tower's share of
          the floating-point operations, which torch counts during one step of each kind.
loading   What the Processor delivers from 360p clips of 10 s: 16 frames of 384 pixels, decoded, from the frames
          cache, and as features of a SigLIP-so400m's size from the feature cache.
limits    The caching epochs against the limits of this machine: operations by the fastest matrix product that this
          run saw, and the time that the Processor needs. The larger one binds.

Ways that are compared take turns, and of every step the fastest run counts, because other programs on the machine only
ever add time. The last line is one JSON object; `logits_memory_ratio` is the logits memory of label-only by full, and
`cached_epoch_over_flops_limit` the cached by the uncached epoch's time, divided by the same ratio of operations: 1
where the cache saves exactly what the tower costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

VIDEO_TOKENS, TEXT_TOKENS, LABELS = 512, 150, 60
BATCH = 4  # samples of a batch in the caching epochs

LOGITS = {"vocab_size": 151_936, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2}
QUICK_LOGITS = LOGITS | {"vocab_size": 8_000, "hidden_size": 128}

# A clip is seen as 8 frames of 112 pixels in patches of 14; it becomes 128 video tokens.
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
    parser.add_argument("--quick", action="store_true", help="much smaller models: a check that it runs, not a result")
    parser.add_argument("--repeats", type=int, default=6, help="turns of each way (default: 6)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (default: 1; on a shared machine more are less steady)"
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)  # what a child process is told, as JSON
    arguments = parser.parse_args()
    if arguments.task:
        task = json.loads(arguments.task)
        print(json.dumps(TASKS[task.pop("name")](**task)))
        return
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
    """Return how busy the machine is, for the reader of the numbers."""
    return f"load average {os.getloadavg()[0]:.1f}"


def report_logits(config: dict[str, int], repeats: int, threads: int) -> dict[str, float]:
    """Measure label-only against full logits and print the comparison."""
    found = child("logits", threads, config=config, repeats=repeats)
    length, vocabulary = VIDEO_TOKENS + TEXT_TOKENS, config["vocab_size"]
    print(f"\nlogits: {VIDEO_TOKENS} video + {TEXT_TOKENS} text tokens, {LABELS} labels, vocabulary {vocabulary:,}")
    print(f"{'way':<14}{'step':>12}{'logits memory':>16}{'computed':>14}{'loss':>12}")
    for way, positions in (("label_only", LABELS), ("full", length)):
        computed = 3 * 4 * positions * vocabulary  # see the head of this file
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
        f"{'limit':>9}{'measured/limit':>16}  binds"
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
    print(f"share of the epoch that is left: measured {measured:.3f}, by operations {predicted:.3f}")
    return {
        "cached_epoch_over_flops_limit": round(measured / predicted, 4),
        "cached_epoch_share": round(measured, 4),
        "flops_share": round(predicted, 4),
        **report,
    }


def report_loading(found: dict[str, float]) -> dict[str, float]:
    """Print what the Processor delivers from each source."""
    print(f"\nloading\n{'source':<18}{'ms/sample':>12}{'samples/s':>12}{'vs decoding':>14}")
    for way, seconds in found.items():
        print(f"{way:<18}{seconds * 1000:>12.1f}{1 / seconds:>12.1f}{found['decoding'] / seconds:>13.1f}x")
    return {
        "frames_cache_speedup": round(found["decoding"] / found["frames cache"], 2),
        "jpeg_frames_cache_speedup": round(found["decoding"] / found["frames, jpeg"], 2),
        "feature_cache_speedup": round(found["decoding"] / found["feature cache"], 2),
    }


def child(name: str, threads: int, **task: Any) -> Any:
    """Run a task in a process of its own and return what it prints."""
    command = [sys.executable, __file__, "--task", json.dumps({"name": name, **task})]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # of torch's profiler
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


# --- tasks: each runs in a child process; logits ----------------------------------------------------------------


def logits(config: dict[str, int], repeats: int) -> dict[str, dict[str, float]]:
    """Return of each way the memory (bytes), the best time (s) and the loss of a step."""
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
    """Return the most bytes that torch holds between the head's start and its gradient's end, less those at the start.

    The profiler sees every allocation; two marks in its record say where the head's part begins and ends.
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
    """Go forward and backward once; return the seconds and the loss."""
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
    """Return a model whose batches bring their features: no tower, a small connector, an LLM with a large head."""
    import torch
    from torch import nn

    from tinyvid.model import VideoLLM

    torch.manual_seed(0)
    llm = language_model(config)
    connector = connector_for(llm, dim=64, num_patches=16, queries=VIDEO_TOKENS, depth=1)
    model = VideoLLM(llm, nn.Identity(), connector).train()
    llm.get_input_embeddings().requires_grad_(False)  # the head too: they are one tensor
    return model


def logits_batch(vocabulary: int) -> Any:
    """Return one sample: video tokens, a question, and a reply."""
    import torch

    from tinyvid.types import IGNORE_INDEX, Batch, Slot

    length = VIDEO_TOKENS + TEXT_TOKENS
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, length), generator=chance)
    places = torch.arange(length)[None]
    return Batch(
        input_ids=ids,
        labels=torch.where(places >= length - LABELS, ids, IGNORE_INDEX),
        attention_mask=torch.ones_like(ids),
        video_mask=places < VIDEO_TOKENS,
        pixels=None,
        num_frames=(16,),
        slots=(Slot(0, ""),),
        features=(torch.randn(16, 16, 64, generator=chance),),
    )


# --- caching ----------------------------------------------------------------------------------------------------


def caching(folder: str, sizes: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Run epochs, and load clips."""
    return [epochs(Path(folder), sizes[0], repeats), loading(Path(folder), sizes[1], repeats)]


def epochs(folder: Path, sizes: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Return, with and without features, the best seconds per epoch of each stage, and the operations (GFLOP)."""
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
    assert cache.statistics.hits > 0
    for way in caches:
        stages = [sum(times) for times in zip(*(best[way, i] for i in range(len(batches))), strict=True)]
        result[way] = dict(zip(("processor", "tower", "step"), stages, strict=True))
    return result | {"samples": len(samples), "peak": fastest}


def train_step(model: Any, processor: Any, optimizer: Any, samples: list[Any]) -> list[float]:
    """Do what the training program does with a batch; return the seconds in the Processor, tower, and the rest."""
    began = time.perf_counter()
    batch = processor.collate([processor(one) for one in samples])
    loaded = time.perf_counter()
    batch = model.fill_features(batch, processor.features)  # runs the tower over what has no features yet
    seen = time.perf_counter()
    model(batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return [loaded - began, seen - loaded, time.perf_counter() - seen]


def operations(run: Callable[[], Any]) -> float:
    """Return the floating-point operations of what ``run`` does, in GFLOP, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def matmul_peak() -> float:
    """Return the speed of a matrix product that suits this machine, in GFLOP/s."""
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
    """Return a model whose LLM and connector train in full, its Processor, and the optimiser."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from tinyvid.adapt import PARTS, PartOptions, PeftOptions, apply, parameter_groups
    from tinyvid.model import VideoLLM
    from tinyvid.vision_towers.siglip import SiglipTower, default_image_spec

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


def language_model(config: dict[str, int]) -> Any:
    """Return a random Qwen2 with heads of 64."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = config["hidden_size"] // 64
    groups = {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
    return Qwen2ForCausalLM(Qwen2Config(**config, **groups, tie_word_embeddings=True))


def connector_for(llm: Any, *, dim: int, num_patches: int, queries: int, depth: int) -> Any:
    """Return a group connector between a tower and an LLM."""
    import tinyvid.connectors  # noqa: F401 - fills the registry
    from tinyvid.registry import CONNECTORS
    from tinyvid.types import FeatureSpec

    options = {"name": "group", "num_queries": queries, "num_groups": 8, "depth": depth}
    spec = FeatureSpec(dim=dim, num_patches=num_patches, grid=None)
    return CONNECTORS.build(options, features=spec, llm_dim=llm.config.hidden_size)


def processor_for(image: Any, connector: Any, *, num_frames: int) -> Any:
    """Return a Processor with the default reader and template, and a tokenizer of one token per byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import tinyvid.build  # noqa: F401 - fills the registries
    from tinyvid import compose
    from tinyvid.processor import Processor
    from tinyvid.registry import SAMPLERS, TEMPLATES, VIDEO_READERS

    bytewise = Tokenizer(
        models.BPE({byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    groups = compose(["template=qwen2_base", f"sampler.num_frames={num_frames}"])
    end = groups.template.end
    return Processor(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=end, pad_token=end),
        template=TEMPLATES.build(groups.template),
        sampler=SAMPLERS.build(groups.sampler),
        reader=VIDEO_READERS.build(groups.video_reader),
        image=image,
        budget=connector.budget,
        reads_question=connector.reads_question,
        max_length=4096,
    )


def sample(path: Path) -> Any:
    """Return a sample about a clip; the template's own words make most of its text."""
    from tinyvid import Message, Sample

    messages = [Message("user", "What moves, and where to?"), Message("assistant", "The camera pans. " * 3)]
    return Sample(messages, video=path, id=path.name)


# --- loading ----------------------------------------------------------------------------------------------------


def loading(folder: Path, sizes: dict[str, Any], repeats: int) -> dict[str, float]:
    """Return the best seconds per sample of each source that the Processor may take a clip from."""
    import torch

    from tinyvid.caches import FeatureCache, FrameCache
    from tinyvid.types import ImageSpec, TokenBudget

    half = (0.5, 0.5, 0.5)

    class Connector:
        budget, reads_question = TokenBudget(fixed=VIDEO_TOKENS), False

    processor = processor_for(ImageSpec(size=sizes["size"], mean=half, std=half), Connector, num_frames=16)
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
        features.write(processor(one).feature_keys[0], torch.randn(sizes["features"], dtype=torch.bfloat16))
    best = {source: [float("inf")] * len(samples) for source in sources}
    for turn in range(repeats + 1):
        for source, (processor.frames, processor.features) in sources.items():
            for number, one in enumerate(samples):
                began = time.perf_counter()
                processor(one)
                spent = time.perf_counter() - began
                best[source][number] = min(best[source][number], spent) if turn else float("inf")  # the first fills
    return {source: sum(times) / len(times) for source, times in best.items()}


def write_clips(folder: Path, name: str, count: int, video: tuple[int, int, int]) -> list[Path]:
    """Write clips of H.264 (width and height in pixels, seconds at 25 fps): a pan over another texture in each."""
    import av
    import numpy as np

    width, height, seconds = video
    paths = [folder / f"{name}_{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        chance = np.random.default_rng(number)
        texture = chance.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.uint8)
        texture = texture.repeat(8, axis=0).repeat(8, axis=1)
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for i in range(seconds * 25):
                x, y = int(60 + 60 * np.sin(i / 20)), int(60 + 60 * np.cos(i / 25))
                picture = np.ascontiguousarray(texture[y : y + height, x : x + width])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return paths


TASKS: dict[str, Callable[..., Any]] = {
    "logits": logits,
    "caching": caching,
}

if __name__ == "__main__":
    main()
