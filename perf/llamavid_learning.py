"""Test on generated clips whether reading the question helps a connector.

A clip of two frames shows ten moving things, one of each color, each with one of four shapes. The question names a
color, and the answer is the shape, one of four words, so chance is 0.25. The vision tower is frozen and random. The
connector and the LLM, a random Qwen2 with two layers, train together on the same samples in the same order. Every
connector has two tokens per frame:

    llamavid  a context token from the question, through the text decoder `llm_embed`, and the mean of the patches
    withheld  the same connector, but its text decoder reads the same neutral phrase for every question
    naive     a resampler with twice as many queries as frames, which does not read the question

The LLM always reads the question. The accuracy is that of the first word of the reply, on held-out clips. The last
line is one JSON object: `accuracy` of each connector by seed, `margin`, the mean over seeds of llamavid's accuracy
minus that of the better of the other two, and `least_margin`, the minimum of these differences.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyvid import Message, Sample
from tinyvid.build import build_connector
from tinyvid.models.video_llm import VideoLLM
from tinyvid.processing.batch import Batch, Example
from tinyvid.processing.processor import Processor
from tinyvid.registry import SAMPLERS, TEMPLATES, VIDEO_READERS
from tinyvid.text.questions import QuestionReader
from tinyvid.types import FeatureSpec, ImageSpec

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 220, 40),
    "purple": (170, 50, 200),
    "white": (240, 240, 240),
    "orange": (240, 140, 30),
    "cyan": (40, 220, 220),
    "pink": (250, 150, 190),
    "brown": (130, 80, 40),
}
SHAPES = ("disc", "square", "cross", "bar")
NUM_FRAMES, GRID, CELL = 2, 4, 16  # frames of a clip, cells of a side, pixels of a cell
PATCH = CELL  # pixels of a patch: each patch shows one thing
WORDS = ("what", "shape", "is", "the", "thing", "?", *COLORS, *SHAPES, "anything", "answer", "<end>")
WIDTH, LLM_DIM = 128, 64
CONNECTORS: dict[str, dict[str, Any]] = {
    "llamavid": {"name": "llamavid"},
    "withheld": {"name": "llamavid"},
    "naive": {"name": "naive", "num_queries": 2 * NUM_FRAMES, "depth": 1},
}
DECODER = {"name": "llm_embed", "dim": 64, "depth": 1, "num_heads": 4, "max_length": 16}


class RandomTower(nn.Module):
    """A frozen tower: random nonlinear features of each patch, plus its position."""

    image = ImageSpec(size=GRID * CELL, mean=(0.5,) * 3, std=(0.5,) * 3)
    features = FeatureSpec(dim=WIDTH, num_patches=(GRID * CELL // PATCH) ** 2, grid=(GRID * CELL // PATCH,) * 2)
    embed = None

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.places = nn.Parameter(torch.randn(self.features.num_patches, WIDTH) * 0.1)
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input pixels."""
        return self.patches.weight.dtype

    def save(self, directory: Path) -> None:
        """Write nothing, because the seed reproduces the tower."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv)."""
        patches = 4 * self.patches(pixels).flatten(2).transpose(1, 2)  # (N, P, Dv)
        return F.layer_norm(F.gelu(self.mix(F.gelu(patches))) + self.places, (WIDTH,))


def draw(chance: np.random.Generator) -> tuple[np.ndarray, dict[str, str]]:
    """Return a clip, uint8 (T, S, S, 3), and the shape of the thing of each color."""
    shapes = {color: str(chance.choice(SHAPES)) for color in COLORS}
    frames = np.full((NUM_FRAMES, GRID * CELL, GRID * CELL, 3), 20, dtype=np.uint8)
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    masks = {
        "disc": x**2 + y**2 <= 36,
        "square": (abs(x) <= 5) & (abs(y) <= 5),
        "cross": (abs(x) <= 2) ^ (abs(y) <= 2),
        "bar": (abs(x) <= 7) & (abs(y) <= 2),
    }
    for frame in frames:
        cells = chance.permutation(GRID * GRID)
        for cell, (color, shape) in zip(cells, shapes.items(), strict=False):
            row, column = divmod(int(cell), GRID)
            view = frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            view[masks[shape]] = COLORS[color]
    return frames, shapes


def tokenizer() -> Any:
    """Return a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


def make_processor(connector: Any) -> Processor:
    """Return the Processor that all models share."""
    words = tokenizer()
    template = {
        "name": "turns",
        "video_suffix": " ",
        "assistant_prefix": " answer",
        "reply_prefix": " ",
        "end": " <end>",
    }
    return Processor(
        tokenizer=words,
        template=TEMPLATES.build({**template, "control_tokens": ["<end>"]}),
        sampler=SAMPLERS.build({"name": "uniform", "num_frames": NUM_FRAMES}),
        reader=VIDEO_READERS.build({"name": "auto"}),
        image=RandomTower.image,
        tokens=connector.tokens,
        max_length=64,
        questions=QuestionReader(words, max_length=16, special_tokens=False),
    )


class VectorizedVideoLLM(VideoLLM):
    """A model that runs its connector once on all clips of a batch, with the same results as a loop."""

    def slot_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the concatenated video tokens of all slots, which fill all places: (sum of K, D)."""
        tokens = self._vectorized(batch).flatten(0, 1)
        return tokens, torch.ones(len(tokens), dtype=torch.bool)

    def _vectorized(self, batch: Batch) -> Tensor:
        clips = torch.stack(self.clips(batch))  # (B, T, P, Dv): one slot a clip
        if not self.connector.tokens.reads_question:
            return torch.vmap(self.get_submodule("connector"))(clips)
        asked = [self.question(slot) for slot in batch.slots]  # all of one length
        embeddings = torch.stack([question.embeddings for question in asked if question.embeddings is not None])

        connector = self.get_submodule("connector")

        def connect(features: Tensor, embedded: Tensor) -> Tensor:
            return connector(features, replace(asked[0], embeddings=embedded))

        return torch.vmap(connect)(clips, embeddings)


def make_model(name: str, seed: int) -> VideoLLM:
    """Return a model with the named connector; the tower depends only on the seed."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    tower = RandomTower().eval()
    torch.manual_seed(seed + 1)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=LLM_DIM,
        intermediate_size=4 * LLM_DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        initializer_range=0.15,  # with the default 0.02, embeddings of this width are too similar
    )
    llm = Qwen2ForCausalLM(config)
    decoder = DECODER if CONNECTORS[name]["name"] == "llamavid" else None
    connector = build_connector(CONNECTORS[name], features=tower.features, llm_dim=LLM_DIM, text_decoder=decoder)
    return VectorizedVideoLLM(llm, tower, connector)


def make_examples(processor: Processor, tower: Any, count: int, chance: np.random.Generator) -> list[Example]:
    """Return training examples of questions about clips, with the features of the frozen tower."""
    examples = []
    for _ in range(count):
        frames, shapes = draw(chance)
        color = str(chance.choice(list(COLORS)))
        turns = [Message("user", f"what shape is the {color} thing ?"), Message("assistant", shapes[color])]
        example = processor(Sample(turns, video=frames))
        (video,) = example.videos
        assert video.pixels is not None
        with torch.no_grad():
            seen = replace(video, pixels=None, features=tower(video.pixels))
        examples.append(replace(example, videos=(seen,)))
    return examples


def withhold(batch: Batch, ids: tuple[int, ...]) -> Batch:
    """Return a batch whose connector reads ``ids`` instead of every question; the text for the LLM is unchanged."""
    return replace(batch, slots=tuple(replace(slot, ids=ids) for slot in batch.slots))


def accuracy_of(model: VideoLLM, batches: list[Batch]) -> float:
    """Return the fraction of replies whose first word is right."""
    right = []
    with torch.inference_mode():
        for batch in batches:
            labels = batch.labels[batch.labels != -100].view(-1, 2)[:, 0]  # a word and its end
            right.append(model(batch).logits.argmax(-1).view(-1, 2)[:, 0] == labels)
    return torch.cat(right).float().mean().item()


def run(name: str, seed: int, train: list[Example], test: list[Example], args: argparse.Namespace) -> float:
    """Train a model, and return its accuracy on held-out clips."""
    model = make_model(name, seed)
    processor = make_processor(model.connector)
    empty = processor.questions("what shape is the anything thing ?") if processor.questions else ()

    def batch_of(examples: list[Example]) -> Batch:
        batch = processor.collate(examples)
        return withhold(batch, empty) if name == "withheld" else batch

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.01)
    rise = max(1, args.steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / rise) * (1 - step / args.steps)
    )
    order = np.random.default_rng(seed)
    model.train()
    for _ in range(args.steps):
        chosen = order.choice(len(train), args.batch_size, replace=False)
        loss = model(batch_of([train[i] for i in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    size = args.batch_size
    return accuracy_of(model.eval(), [batch_of(test[i : i + size]) for i in range(0, len(test), size)])


def main() -> None:
    """Train every connector with every seed, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each connector (default: 3)")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps per run (default: 600)")
    parser.add_argument("--batch-size", type=int, default=128, help="samples per step (default: 128)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: 2e-3)")
    parser.add_argument("--train", type=int, default=6000, help="training clips (default: 6000)")
    parser.add_argument("--test", type=int, default=600, help="test clips (default: 600)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    accuracy: dict[str, list[float]] = {name: [] for name in CONNECTORS}
    for seed in range(args.seeds):
        model = make_model("llamavid", seed)
        processor = make_processor(model.connector)
        chance = np.random.default_rng(1000 + seed)
        train, test = (make_examples(processor, model.vision_tower, count, chance) for count in (args.train, args.test))
        for name in CONNECTORS:
            began = time.process_time()
            accuracy[name].append(run(name, seed, train, test, args))
            print(
                f"seed {seed}  {name:<9} {accuracy[name][-1]:.3f}  {time.process_time() - began:.0f} s of CPU",
                flush=True,
            )
    margins = [
        accuracy["llamavid"][seed] - max(accuracy[name][seed] for name in CONNECTORS if name != "llamavid")
        for seed in range(args.seeds)
    ]
    report = {"accuracy": accuracy, "margin": sum(margins) / len(margins), "least_margin": min(margins)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
