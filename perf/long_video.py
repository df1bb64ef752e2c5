"""Measure how time and memory grow with the length of a video, from one minute to three hours at one frame per second.

The script first writes files of 64 x 64 pixels (H.264, one frame per second). Each row of the table is a new process
with one thread and a tiny random model (SigLIP with 2 layers and 4 x 4 patches, `llamavid` with the text decoder
`llm_embed`, Qwen2 with 2 layers). It runs all steps on a file: plan, read in pieces, vision tower, connector, video
tokens in their places. Times are CPU times, so other programs do not affect them. `encode` is the time of these
steps. `prefill` is the time of the LLM on the finished sequence; it is quadratic in the length and skipped above
25,000 tokens. `peak` is the peak memory of the process, and `growth` the part gained after everything was loaded and
warmed up. Tokens per frame: 1 is only the context token, 2 adds the mean of the patches, 5 a 2 x 2 grid, 17 all 4 x
4 patches.

Then the same LLM reads the same frames with 2 and with 729 tokens each, the number that `mlp` outputs for 27 x 27
patches.

The last line is one JSON object: `time_linearity` (encode time per minute of video, longest / 10 minutes, at 2
tokens per frame; 1 is linear), `memory_growth` (peak memory, longest / 10 minutes), `memory_growth_mib` (the same as
a difference), `longest_s` and `longest_peak_mib`, and `prefill_ratio` (prefill time at 729 tokens per frame / at 2).
`--quick` uses 1 and 2 minutes instead of 10 minutes and 3 hours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONTENT: dict[int, dict[str, Any]] = {
    1: {"content": "drop"},
    2: {"content": "mean"},
    5: {"content": "grid", "grid": 2},
    17: {"content": "none"},
}
PARTS = [
    "connector=llamavid",
    "text_decoder.dim=64",
    "text_decoder.num_heads=4",
    "sampler=fps",
    "sampler.max_frames=20000",
]
SIDE, WIDTH, PREFILL_LIMIT = 56, 128, 25_000
WIDE = 13  # column width
LLM = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1 << 18,
}
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def write_video(path: Path, minutes: int) -> Path:
    """Write a texture that moves sideways, one frame per second."""
    import av

    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1, options={"preset": "ultrafast", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size = 32
        for i in range(minutes * 60):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, i % 64, axis=1), format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def build(tokens: int) -> Any:
    """Return a tiny model and its Processor, on the CPU."""
    import torch
    from _small import language_model, tokenizer_for
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from tinyvid import compose
    from tinyvid.build import assemble, check, make_connector
    from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
    from tinyvid.protocols import LanguageModel

    torch.manual_seed(0)
    groups = check(compose(PARTS))
    groups["connector"] |= CONTENT[tokens]
    config = SiglipVisionConfig(**TOWER)
    tower = SiglipTower(SiglipVisionModel(config).eval(), default_image_spec(config), layer=-1, select="all")
    llm = LanguageModel(
        language_model(LLM).eval(), tokenizer_for(groups["template"]["end"]), LLM["max_position_embeddings"]
    )
    connector = make_connector(
        groups["connector"], features=tower.features, llm_dim=llm.dim, text_decoder=groups["text_decoder"]
    )
    return assemble(groups, llm, tower, connector)


def memory(field: str) -> float:
    """Return `VmHWM` (the peak) or `VmRSS` (now) of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(path: Path, tokens: int) -> dict[str, float]:
    """Run all steps on a file, and return their time and memory."""
    import torch

    from tinyvid import Message, Sample

    torch.set_num_threads(1)  # with several threads, CPU time includes waiting
    model, processor = build(tokens)
    question = [Message("user", "Who enters, and when?")]

    def encode(video: Any) -> tuple[Any, Any]:
        batch = processor.collate([processor(Sample(question, video=video))], padding_side="left")
        return batch, model.embed(batch)

    with torch.inference_mode():
        for warm_up in (16, 64):
            encode(np.zeros((warm_up, 64, 64, 3), np.uint8))
        before = memory("VmRSS")
        start = time.process_time()
        batch, embeddings = encode(path)
        encoded, peak = time.process_time() - start, memory("VmHWM")
        length = embeddings.shape[1]
        prefilled = prefill(model.llm, embeddings) if length <= PREFILL_LIMIT else None
    video = int(batch.video_mask.sum())
    return {
        "encode": encoded,
        "prefill": prefilled,
        "peak": peak,
        "growth": peak - before,
        "length": length,
        "video": video,
    }


def prefill(llm: Any, embeddings: Any) -> float:
    """Return the seconds that an LLM takes to read a sequence (1, L, D) up to its first new token."""
    start = time.process_time()
    llm(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1)
    return time.process_time() - start


def compare_prefill(num_frames: int, repeats: int = 3) -> dict[int, float]:
    """Return the seconds of the fastest prefill, with 2 and with 729 tokens per frame."""
    import torch
    from _small import language_model

    torch.set_num_threads(1)
    llm = language_model(LLM).eval()
    times = {}
    with torch.inference_mode():
        for tokens in (2, 729):
            embeddings = torch.randn(1, num_frames * tokens, WIDTH)
            times[tokens] = min(prefill(llm, embeddings) for _ in range(repeats))
    return times


def child(path: Path, tokens: int) -> dict[str, float]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--one", str(path), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use 1 and 2 minutes, and 4 frames for the prefill")
    parser.add_argument("--one", type=Path, help="measure only this file, and print JSON")
    parser.add_argument(
        "--tokens", type=int, choices=CONTENT, default=2, help="tokens per frame, with --one (default: 2)"
    )
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.tokens)))
        return
    short, longest = (1, 2) if args.quick else (10, 180)
    lengths = (short, longest) if args.quick else (1, 10, 30, 60, 180)
    runs = [(minutes, 2) for minutes in lengths]
    runs += [(minutes, tokens) for tokens in ((17,) if args.quick else (1, 5, 17)) for minutes in (short, longest)]
    columns = ("minutes", "tokens/frame", "encode", "per minute", "prefill", "peak", "growth", "length")
    print("".join(f"{name:>{WIDE}}" for name in columns))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {minutes: write_video(Path(folder) / f"{minutes}.mp4", minutes) for minutes in lengths}
        for minutes, tokens in runs:
            found = results[minutes, tokens] = child(files[minutes], tokens)
            first = "-" if found["prefill"] is None else f"{found['prefill']:.2f} s"
            cells = (
                str(minutes),
                str(tokens),
                f"{found['encode']:.2f} s",
                f"{1000 * found['encode'] / minutes:.0f} ms",
                first,
                f"{found['peak']:.0f} MiB",
                f"{found['growth']:.0f} MiB",
                f"{found['length']:,}",
            )
            print("".join(f"{cell:>{WIDE}}" for cell in cells), flush=True)
    frames = 4 if args.quick else 32
    times = compare_prefill(frames)
    for tokens, seconds in times.items():
        print(
            f"prefill of {frames} frames at {tokens} tokens each: {frames * tokens:,} tokens, {1000 * seconds:,.0f} ms"
        )
    base, most = results[short, 2], results[longest, 2]
    report = {
        "time_linearity": round(most["encode"] / longest / (base["encode"] / short), 3),
        "memory_growth": round(most["peak"] / base["peak"], 3),
        "memory_growth_mib": round(most["peak"] - base["peak"], 1),
        "longest_s": round(most["encode"], 1),
        "longest_peak_mib": round(most["peak"]),
        "prefill_ratio": round(times[729] / times[2], 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
