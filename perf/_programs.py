"""The programs that ``interruptions.py`` interrupts: how each runs, and what it has when it was killed."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FINISHED = 1_000_000  # progress of a finished program
PARTS = (
    "llm=qwen2_5_tiny", "vision_tower=siglip_tiny_64", "connector=group", "connector.num_queries=8",
    "connector.num_groups=4", "connector.depth=1", "template=role_tokens", "sampler.num_frames=4",
)  # fmt: skip
RECIPE = (
    "recipe=smoke", "recipe.max_steps=8", "recipe.epochs=4", "recipe.save_every=2", "peft.rank=2", "peft.dropout=0.1",
    "recipe.connector.train=frozen", "recipe.keep=2", "device=cpu", "dtype=float32", "run_dir=unused",
)  # fmt: skip


class Interruptible:
    """What the trial needs to know of a program.

    Attributes:
        name: Name for the report.
        is_exclusive: Only one process at a time may use its folder.
        survives: It must finish although nothing can be written.
        result: File or folder that a finished program leaves in its folder; empty for the folder itself.
    """

    name = ""
    is_exclusive = True
    survives = False
    result = ""

    def __init__(self, inputs: Path) -> None:
        self.inputs = inputs

    def load(self) -> None:
        """Load what the program needs."""

    def finished(self, place: Path) -> bool:
        """Return whether the program has finished."""
        return (place / self.result).exists()

    def half(self, place: Path, reference: Path) -> Iterator[str]:
        """Yield what looks complete, but is not."""
        if self.finished(place) and not self.same(place, reference):
            yield f"{self.result or 'the folder'} exists, but is not complete"

    def same(self, place: Path, reference: Path) -> bool:
        """Return whether a program has the results of an uninterrupted one."""
        return contents(place) == contents(reference)


class Worlds(Interruptible):
    """Write a set of clips."""

    name = "make_world"

    def run(self, place: Path) -> None:
        from tinyvid.worlds.shapes import SetOptions, write_set

        options = SetOptions(questions=2, seconds=[2.0], sizes=["64x64"])
        write_set(options, place, clips=16, crf=[23], codecs=["h264"])

    def progress(self, place: Path) -> int:
        return FINISHED if place.exists() else len(self._clips(place.with_name(f"{place.name}.partial")))

    def half(self, place: Path, reference: Path) -> Iterator[str]:
        yield from super().half(place, reference)
        partial = place.with_name(f"{place.name}.partial")
        for name, content in self._clips(partial).items():
            if content != (reference / name).read_bytes():
                yield f"{name} is not complete"

    def _clips(self, folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("clips/*/*.mp4")}


class Training(Interruptible):
    """Train a small model, or resume its run."""

    name = "training"
    result = "model"

    def load(self) -> None:
        """Compose the settings."""
        from omegaconf import OmegaConf

        import recipes.train  # noqa: F401
        from tinyvid import compose

        rows = self.inputs / "rows.jsonl"
        held_out = [f"data.path={rows}", f"eval_path={rows}", "recipe.eval_every=4"]
        composed = compose([*PARTS, *RECIPE, *held_out], config="train")
        self.settings: Any = OmegaConf.to_container(composed, resolve=True)

    def run(self, place: Path) -> None:
        from recipes.train import train

        train(self.settings | {"resume": (place / "config.yaml").exists()}, place)

    def progress(self, place: Path) -> int:
        from tinyvid.training.runs import numbered

        steps = [int(folder.name.rpartition("-")[2]) for folder in numbered(place)]
        return FINISHED if self.finished(place) else max(steps, default=0)

    def half(self, place: Path, reference: Path) -> Iterator[str]:
        from tinyvid import Assistant, TinyvidError
        from tinyvid.training.runs import check_complete, numbered

        del reference
        for folder in [*numbered(place), *([place / "model"] if self.finished(place) else [])]:
            try:
                if folder.name != "model":
                    check_complete(folder, 1)
                Assistant.from_pretrained(folder, device="cpu")
            except TinyvidError as error:
                yield str(error)

    def same(self, place: Path, reference: Path) -> bool:
        from tinyvid.training.log import read_metrics

        metrics = [
            {(r["step"], key): r[key] for r in read_metrics(run) for key in ("loss", "eval_loss") if key in r}
            for run in (place, reference)
        ]
        weights = [(run / "checkpoint-8" / "trained.safetensors").read_bytes() for run in (place, reference)]
        return metrics[0] == metrics[1] and weights[0] == weights[1]


class Saving(Interruptible):
    """Save a model."""

    name = "checkpoint"
    is_exclusive = False

    def load(self) -> None:
        """Build the model."""
        self.assistant = model()

    def run(self, place: Path) -> None:
        self.assistant.save_pretrained(place)

    def progress(self, place: Path) -> int:
        return int(place.exists())


class Caching(Interruptible):
    """Write entries to a cache."""

    name = "cache"
    is_exclusive = False
    survives = True
    entries = 300

    def run(self, place: Path) -> None:
        store = self._store(place)
        for number in range(self.entries):
            if store.read(str(number)) is None:
                store.write(str(number), self._content(number))

    def _store(self, place: Path) -> Any:
        from tinyvid.caches.store import Store

        return Store(place, max_gib=1.0, name="cache.frames")

    def _content(self, number: int) -> dict[str, Any]:
        import torch

        return {"x": torch.full((20_000,), number)}

    def finished(self, place: Path) -> bool:
        return self.progress(place) == self.entries

    def progress(self, place: Path) -> int:
        return len([*place.glob("*.cache.safetensors")])

    def half(self, place: Path, reference: Path) -> Iterator[str]:
        del reference
        store = self._store(place)
        for number in range(self.entries):
            found = store.read(str(number)) if store.path(str(number)).exists() else self._content(number)
            if found is None or not found["x"].equal(self._content(number)["x"]):
                yield f"entry {number}"

    def same(self, place: Path, reference: Path) -> bool:
        names = [sorted(file.name for file in folder.glob("*.cache.*")) for folder in (place, reference)]
        return names[0] == names[1] and not [*self.half(place, reference)]


class Evaluating(Interruptible):
    """Run a benchmark."""

    name = "evaluation"
    result = "report.json"

    def load(self) -> None:
        """Build the model and the benchmark."""
        from tinyvid import build_benchmark

        self.parts = model(), build_benchmark({"name": "custom", "root": str(self.inputs)})

    def run(self, place: Path) -> None:
        from tinyvid import EvaluationOptions, evaluate

        options = EvaluationOptions(max_new_tokens=8, batch_size=2, workers=1)
        evaluate(*self.parts, run_dir=place, options=options)

    def progress(self, place: Path) -> int:
        from tinyvid.evaluation.reporting.predictions import Predictions

        return len(Predictions(place).read())

    def same(self, place: Path, reference: Path) -> bool:
        rows = [
            sorted((folder / "predictions.jsonl").read_text().splitlines(), key=lambda row: json.loads(row)["id"])
            for folder in (place, reference)
        ]
        reports = [json.loads((folder / "report.json").read_text()) for folder in (place, reference)]
        return rows[0] == rows[1] and reports[0] == reports[1]


def model() -> Any:
    """Return a small model with random connector weights."""
    import torch

    from tinyvid import Assistant, compose

    torch.manual_seed(0)
    return Assistant.from_config(compose(PARTS), device="cpu")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


PROGRAMS = {kind.name: kind for kind in (Training, Saving, Caching, Evaluating, Worlds)}


def prepared(names: list[str], folder: Path) -> list[Any]:
    """Return programs, whose inputs are in a folder.

    They are loaded here, before the first fork: it saves time, and a process without permissions may not be able to
    read the libraries.
    """
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    Worlds(folder).run(folder / "input")
    programs = [PROGRAMS[name](folder / "input") for name in names]
    for program in programs:
        program.load()
    return programs
