"""Compare the resamplers with a plain implementation of the same formula: speed and outputs.

For `group` and `naive`, the script runs a forward and a backward pass over one clip, through tinyvid's connector and
through the plain implementation below, which uses einsum, explicit attention scores and a loop over groups. Both use
the same weights. Runs alternate, and the fastest of each counts. The published size is TinyLLaVA-Video's: 16 frames
of 729 patches of width 1152, an LLM of width 2048, 512 queries, 16 groups, 3 blocks.

The last line is one JSON object: `group_speedup` and `naive_speedup` (time of the plain implementation / time of
tinyvid), and `max_error`, the largest difference of any output or gradient, relative to the largest value of its
tensor.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid import CONNECTORS, FeatureSpec
from tinyvid.models.connectors.blocks import HEAD_DIM, HEADS, CrossAttention, sinusoid_table
from tinyvid.models.connectors.resampler import GroupResampler, NaiveResampler

SIZES = {
    "published": {
        "frames": 16,
        "patches": 729,
        "tower_dim": 1152,
        "llm_dim": 2048,
        "queries": 512,
        "groups": 16,
        "depth": 3,
    },
    "small": {"frames": 16, "patches": 256, "tower_dim": 384, "llm_dim": 512, "queries": 128, "groups": 16, "depth": 2},
}
Run = Callable[[Any, Tensor], Tensor]


def plain_attention(block: CrossAttention, latents: Tensor, media: Tensor) -> Tensor:
    """Compute the attention of one group: latents (q, D), media (N, D) to (q, D)."""
    latents = block.norm_latents(latents)
    seen = torch.cat([block.norm_media(media), latents])  # (N + q, D)
    query = block.to_q(latents).unflatten(-1, (HEADS, HEAD_DIM)) * HEAD_DIM**-0.5
    key, value = (x.unflatten(-1, (HEADS, HEAD_DIM)) for x in block.to_kv(seen).chunk(2, dim=-1))
    scores = torch.einsum("qhc,nhc->hqn", query, key)
    weights = (scores - scores.amax(dim=-1, keepdim=True).detach()).softmax(dim=-1)
    return block.to_out(torch.einsum("hqn,nhc->qhc", weights, value).flatten(1))


def plain_blocks(connector: NaiveResampler | GroupResampler, media: Tensor) -> Tensor:
    """Summarize one group: media (N, D) to (q, D)."""
    latents: Tensor = connector.latents
    layers: Any = connector.layers  # pairs; the type of ModuleList does not say so
    for attention, feed in layers:
        latents = plain_attention(attention, latents, media) + latents
        latents = feed(latents) + latents
    return connector.norm(latents)


def plain_naive(connector: NaiveResampler, features: Tensor) -> Tensor:
    """Map features (T, P, Dv) to (Q, D)."""
    media = connector.linear(features.flatten(0, 1))
    return plain_blocks(connector, media + sinusoid_table(*media.shape).to(media))


def plain_group(connector: GroupResampler, features: Tensor) -> Tensor:
    """Map features (T, P, Dv) to (Q, D), one group at a time."""
    media = connector.linear(features.flatten(0, 1))
    tokens = torch.cat([plain_blocks(connector, group) for group in media.tensor_split(connector.num_groups)])
    return tokens + sinusoid_table(*tokens.shape).to(tokens)


def step(run: Run, connector: nn.Module, features: Tensor, target: Tensor) -> tuple[float, list[Tensor]]:
    """Run one forward and backward pass; return the seconds, and the output with every gradient."""
    connector.zero_grad(set_to_none=True)
    synchronize(features)
    start = time.perf_counter()
    out = run(connector, features)
    out.backward(target)
    synchronize(features)
    seconds = time.perf_counter() - start
    return seconds, [out.detach(), *(p.grad for p in connector.parameters() if p.grad is not None)]


def synchronize(tensor: Tensor) -> None:
    """Wait for the device, so that the time includes all of its work."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def relative_error(tensors: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest value of its tensor."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(tensors, expected, strict=True))


def compare(name: str, plain: Run, size: dict[str, int], args: argparse.Namespace) -> tuple[float, float, float]:
    """Return the fastest times of the plain implementation and of tinyvid's, and the error between them."""
    torch.manual_seed(0)
    features = torch.randn(size["frames"], size["patches"], size["tower_dim"], device=args.device)
    target = torch.randn(size["queries"], size["llm_dim"], device=args.device)
    options = {"name": name, "num_queries": size["queries"], "depth": size["depth"]}
    if name == "group":
        options["num_groups"] = size["groups"]
    spec = FeatureSpec(dim=size["tower_dim"], num_patches=size["patches"], grid=None)
    connector = CONNECTORS.build(options, features=spec, llm_dim=size["llm_dim"]).to(args.device)

    times: dict[str, list[float]] = {"plain": [], "tinyvid": []}
    error = 0.0
    for _ in range(args.repeats):
        seconds, expected = step(plain, connector, features, target)
        times["plain"].append(seconds)
        seconds, tensors = step(lambda module, x: module(x), connector, features, target)
        times["tinyvid"].append(seconds)
        error = max(error, relative_error(tensors, expected))
    return min(times["plain"]), min(times["tinyvid"]), error


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="published", help="sizes of the parts (default: published)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each implementation (default: 5)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device (default: cuda if available)"
    )
    args = parser.parse_args()
    size = SIZES[args.size]

    where = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"{args.device}, {torch.get_num_threads()} threads"
    )
    print(f"{where}; float32; {', '.join(f'{key} {value}' for key, value in size.items())}")
    print(f"{'forward + backward':<20}{'plain':>12}{'tinyvid':>12}{'speedup':>10}{'max error':>12}")
    report: dict[str, float] = {}
    errors = []
    for name, plain in (("group", plain_group), ("naive", plain_naive)):
        slow, fast, error = compare(name, plain, size, args)
        errors.append(error)
        report[f"{name}_speedup"] = round(slow / fast, 3)
        print(f"{name:<20}{slow:>10.3f} s{fast:>10.3f} s{slow / fast:>9.2f}x{error:>12.1e}")
    print(json.dumps(report | {"max_error": max(errors)}))


if __name__ == "__main__":
    main()
