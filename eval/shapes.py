"""The shapes world as a benchmark: a test set of real files that tinyvid draws itself, from a fixed seed.

The set is what ``recipes/make_world.py`` writes, by the same code; docs/shapes.md describes it. It is drawn into
``benchmark.root`` when it is not there, and used again when it is what would be drawn. A blind run shows black, or
another clip of the set, in place of each clip: what is still right then was not seen.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from tinyvid import (
    BENCHMARKS,
    DATASETS,
    LETTERS,
    ConfigError,
    DataError,
    Item,
    Outcome,
    PositiveInt,
    Rule,
    Sample,
    Video,
    lettered,
    micro,
)
from tinyvid.worlds.shapes import (
    Background,
    ClipPlan,
    Phase,
    Scene,
    SetOptions,
    Shape,
    Shot,
    describe_set,
    encode,
    write_set,
)

SIZES = ["64x64", "64x64", "96x96", "128x128", "96x72", "128x72"]
FPS, SECONDS = [8.0, 10.0, 12.0], [2.0, 3.0, 4.0, 6.0]
CRF, CODECS = [18, 23, 28], ["h264"]
DEFAULT_ROOT = "runs/worlds"  # holds a folder for each set that has no place of its own
UNSEEN = Shape("white", "circle", 0.1, (Phase("still", 0.0, 1.0, (0.5, 0.5), (0.5, 0.5)),), disappears=0.0)
DARK = Scene(shapes=(UNSEEN,), shots=(Shot(0.0, Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))),))


@BENCHMARKS.register("shapes")
class Shapes:
    """Ask about generated clips of moving shapes.

    Args:
        root: Folder of the set, drawn if it is not there; null for one in ``runs/worlds``, named after what it is.
        clips: How many.
        questions: Of each clip.
        seed: Decides everything, together with ``split`` and the number of a clip.
        split: ``iid``: clips as the default model was trained on, new ones; ``unseen``: each has a pair of color and
            shape that ``hold_out`` leaves out.
        hold_out: Leave these pairs out of ``iid``.
        families: Of questions; all but those that are kept for skills of one's own if null.
        formats: Of questions: ``open``, ``choice``, ``yesno``, ``caption``; all if null.
        num_shapes: In each clip; 1 to 4 if null.
        cuts: Share of clips with a cut.
        pans: Share of clips in which the camera travels.
        sizes: Pixels, as ``WIDTHxHEIGHT``; each clip has one of them, as for all that follows.
        fps: Frames per second.
        seconds: Lengths.
        crf: Compression of ``h264`` and ``vp9``.
        codecs: ``h264``, ``mpeg4`` or ``vp9``.
        frames: Frames that the model samples, for questions that count them.
        blind: ``black`` shows a black file of the same size and length, ``other`` the next clip; null shows the clip.
        workers: Processes that draw, beside this one; the set does not depend on them.
        prompt_style: ``official``: as the world asks.

    Raises:
        ConfigError: No clip can be like that, or ``root`` holds something else.
        DataError: The set cannot be written; the same call goes on.
    """

    name = "shapes"
    source = "tinyvid itself: where there is no such folder, the set is drawn"

    def __init__(  # noqa: PLR0913 - what a set can be like
        self,
        *,
        root: str | None = None,
        clips: PositiveInt = 500,
        questions: PositiveInt = 8,
        seed: int = 1,
        split: Literal["iid", "unseen"] = "iid",
        hold_out: bool = False,
        families: list[str] | None = None,
        formats: list[str] | None = None,
        num_shapes: PositiveInt | None = None,
        cuts: float = 0.0,
        pans: float = 0.0,
        sizes: list[str] = SIZES,
        fps: list[float] = FPS,
        seconds: list[float] = SECONDS,
        crf: list[int] = CRF,
        codecs: list[str] = CODECS,
        frames: PositiveInt = 16,
        blind: Literal["black", "other"] | None = None,
        workers: int = 0,
        prompt_style: Literal["official"] = "official",
    ) -> None:
        options = SetOptions(
            seed=seed,
            split=split,
            hold_out=hold_out,
            questions=questions,
            families=families,
            formats=formats,
            num_shapes=num_shapes,
            cuts=cuts,
            pans=pans,
            sizes=sizes,
            fps=[float(rate) for rate in fps],
            seconds=[float(length) for length in seconds],
            frames=frames,
        )
        described = describe_set(options, clips=clips, crf=crf, codecs=codecs)
        self.set = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
        folder = Path(DEFAULT_ROOT, f"shapes-{split}-{self.set}") if root is None else Path(root).expanduser()
        draw(options, folder, clips=clips, crf=crf, codecs=codecs, workers=workers)
        # A blind run asks the same items; that it shows other videos is told by the style, which every report names.
        self.prompt_style = prompt_style if blind is None else f"{prompt_style}, blind: {blind}"
        self.shown = shown(folder, blind)
        self.rows = DATASETS.build({"name": "jsonl", "path": str(folder / "rows.jsonl")}, key="benchmark")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Return a row as an item, named after the set and the row: other files of the same clips are other items."""
        sample: Sample = self.rows[index]
        (clip,) = sample.videos
        video = Video(self.shown.get(str(clip.source), clip.source))
        return _item(replace(sample, id=f"{self.set}/{sample.id}", video=video))

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return accuracies in percent: ``Overall`` without captions, and ``Captions``, which must be right as a whole.

        The groups ``part`` of the report hold both with their intervals.
        """
        parts = {
            name: [outcome for outcome in outcomes if outcome.groups["part"] == part]
            for name, part in (("Overall", "questions"), ("Captions", "captions"))
        }
        return {name: 100 * micro(members) for name, members in parts.items() if members}


def _item(sample: Sample) -> Item:
    """Return a row of a set as an item: letters and yes or no by their rules, all else word for word."""
    *asked, reply = sample.messages
    form = str(sample.meta["format"])
    rules: dict[str, Rule] = {"choice": "choice", "yesno": "yes_no"}
    options = [str(option) for option in sample.meta.get("options") or ()]
    written = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return Item(
        id=sample.id,
        sample=replace(sample, messages=asked),
        rule=rules.get(form, "exact"),
        answer=reply.text,
        options=lettered(options),
        groups={
            "part": "captions" if form == "caption" else "questions",
            "family": str(sample.meta["family"]),
            "format": form,
        },
        question=asked[-1].text.removesuffix("\n".join(["", *written])),
    )


def draw(options: SetOptions, folder: Path, *, clips: int, crf: list[int], codecs: list[str], workers: int) -> None:
    """Draw a set unless it is there. Of several processes that want it, one draws and the others wait.

    Arguments and errors are those of ``write_set``.

    Raises:
        ConfigError: The folder holds something else.
    """
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not folder.exists():
                    write_set(options, folder, clips=clips, crf=crf, codecs=codecs, workers=workers, track=_bar(clips))
        except OSError as error:
            raise DataError(f"benchmark.root={str(folder)!r} cannot be written: {error}") from error
    check_set(folder, describe_set(options, clips=clips, crf=crf, codecs=codecs))


def check_set(folder: Path, described: Mapping[str, Any]) -> None:
    """Refuse a folder that is no set, or another one.

    Raises:
        ConfigError: What is the matter.
    """
    advice = "give the options of then, choose another benchmark.root, or remove the folder to have it drawn again"
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"benchmark.root={str(folder)!r} is there and is no set of the shapes world; {advice}"
        ) from error
    changed = [key for key in described if not isinstance(found, dict) or found.get(key) != described[key]]
    if changed:
        told = ", ".join(
            f"{key}: {found.get(key)!r:.60} there, {described[key]!r:.60} asked for" for key in changed[:4]
        )
        raise ConfigError(f"benchmark.root={str(folder)!r} holds a set with other options ({told}); {advice}")


def shown(folder: Path, blind: str | None) -> dict[str, Path]:
    """Return, by the file of a clip, the file that a blind run shows in its place; black ones are written.

    Raises:
        ConfigError: There is no other clip to show.
        DataError: ``scenes.jsonl`` is damaged, or a black file cannot be written.
    """
    if blind is None:
        return {}
    try:
        lines = (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
        scenes = [json.loads(line) for line in lines]
        clips = [str(folder.absolute() / scene["video"]) for scene in scenes]
        if blind == "black":
            return {clip: _black(folder, scene) for clip, scene in zip(clips, scenes, strict=True)}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / 'scenes.jsonl'}: a blind run cannot be made of it: {error}") from error
    if len(clips) < 2:
        raise ConfigError("benchmark.blind=other needs at least benchmark.clips=2")
    return dict(zip(clips, map(Path, [*clips[1:], clips[0]]), strict=True))


def _black(folder: Path, scene: Mapping[str, Any]) -> Path:
    """Return a black file of the size, rate, length and codec of a clip; clips that agree in them share it."""
    width, height, fps, count, codec = (scene[key] for key in ("width", "height", "fps", "num_frames", "codec"))
    name = f"{width}x{height}_{fps:g}fps_{count}_{codec}{Path(scene['video']).suffix}"
    file = folder.absolute() / "black" / name
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f".{os.getpid()}_{name}")  # several processes may write the same one
        partial.write_bytes(encode(ClipPlan(0, DARK, width, height, fps, count, (), 0.0), codec=codec))
        partial.replace(file)
    return file


def _bar(clips: int) -> Any:
    """Return what shows how many clips are drawn, on standard error."""
    from rich.console import Console
    from rich.progress import track

    def show(written: Iterable[Any]) -> Iterable[Any]:
        return track(written, "drawing the clips", total=clips, console=Console(stderr=True), transient=True)

    return show
