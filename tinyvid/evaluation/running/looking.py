"""Ask a benchmark with the clips and with controls in place of them, and write the look report."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.assistant import Assistant
from tinyvid.errors import ConfigError, DataError, suggest
from tinyvid.evaluation.items import NOT_ASKED, Benchmark, Item, Outcome
from tinyvid.evaluation.judging.judge import Judge
from tinyvid.evaluation.reporting.compare import common_items, load_runs
from tinyvid.evaluation.reporting.look import summarize_look, write_look
from tinyvid.evaluation.reporting.predictions import ROWS, read_outcomes
from tinyvid.evaluation.reporting.report import Report
from tinyvid.evaluation.running.blind import CONTROLS, Blind, Control, blind_of, blinded
from tinyvid.evaluation.running.runner import EvaluationOptions, check_judge, check_videos, choose_items, evaluate
from tinyvid.files import expanded
from tinyvid.types import Video
from tinyvid.video.images import IMAGES

logger = logging.getLogger(__name__)

CLIP = "clip"  # folder of the run with the clips
ORDER: tuple[Blind, ...] = ("middle", "shuffled", "reversed")  # show an image unchanged


@dataclass(frozen=True, slots=True)
class LookOptions:
    """Options of a look report.

    Attributes:
        controls: What to show in place of the clips, one run each.
        before: Folder of an earlier run of the same benchmark with the clips, or of an earlier look report.
    """

    controls: Sequence[str] = CONTROLS
    before: str | None = None

    def __post_init__(self) -> None:
        for control in self.controls:
            if control not in CONTROLS:
                raise ConfigError(f"controls={[*self.controls]}: {suggest(control, CONTROLS)}")
        if not self.controls and self.before is None:
            raise ConfigError("controls=[] leaves nothing to compare; choose some of them, or set before=")


def check_look(
    benchmark: Benchmark, look: LookOptions, options: EvaluationOptions, judge: Judge | None = None
) -> list[Item]:
    """Return the items of a look report.

    Raises:
        ConfigError: The benchmark shows something else already, there is nothing to show in place of its videos, or a
            judge is missing.
        DataError: There are no items, videos are missing, or ``before`` is not a run of the benchmark with the clips.
    """
    if blind_of(benchmark):
        raise ConfigError(f"benchmark.blind={blind_of(benchmark)}: a look report sets it itself; remove it")
    items = choose_items(benchmark, options.limit)
    check_judge(items, benchmark, judge)
    check_videos(items, benchmark, options.missing)
    if not any(item.sample.videos for item in items):
        raise ConfigError(f"no item of benchmark '{benchmark.name}' has a video; choose another benchmark")
    for control in _chosen(look):
        Control.of(blinded(benchmark, blind=control), items)
    if look.before is not None:
        earlier = {outcome.id for outcome in read_outcomes(_before(look.before) / ROWS)}
        if not earlier & {item.id for item in items}:
            raise DataError(
                f"before={look.before}: this run asked none of the {len(items):,} items of benchmark "
                f"'{benchmark.name}'; give a run of the same questions"
            )
    return items


def look_at(
    assistant: Assistant,
    benchmark: Benchmark,
    *,
    run_dir: str | Path,
    look: LookOptions | None = None,
    options: EvaluationOptions | None = None,
    judge: Judge | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Ask a benchmark with the clips and with each control, and write ``look.md``, ``look.json`` and ``look.png``.

    Each run has a folder in ``run_dir``; a second call with the same folder continues. With several processes, all of
    them must call this function.

    Args:
        assistant: The model.
        benchmark: The benchmark.
        run_dir: Folder of the report.
        look: Options of the report.
        options: Options of each run.
        judge: Judge of items with the rule ``judge``.
        settings: Additional settings for the reports of the runs; ``ckpt`` names the model in this one.
        progress: Show a progress bar of each run on standard error.

    Returns:
        The content of ``look.json``.

    Raises:
        ConfigError: As ``check_look`` and ``evaluate``.
        DataError: As ``check_look`` and ``evaluate``, or no item can be compared.
    """
    folder, settings = expanded(run_dir), settings or {}
    look, options = look or LookOptions(), options or EvaluationOptions()
    items = check_look(benchmark, look, options, judge)

    def run(name: str, shown: Benchmark) -> dict[str, Outcome]:
        evaluate(
            assistant, shown, run_dir=folder / name, options=options, judge=judge, settings=settings, progress=progress
        )
        return {outcome.id: outcome for outcome in read_outcomes(folder / name / ROWS)}

    clip = run(CLIP, benchmark)
    several = {item.id for item in items if any(not _is_image(video) for video in item.sample.videos)}
    chosen = [control for control in _chosen(look) if several or control not in ORDER]
    if len(chosen) < len(_chosen(look)):
        logger.warning("All videos are images, so controls that change the order of frames are left out.")
    controls: dict[str, dict[str, Outcome]] = {
        control: run(control, blinded(benchmark, blind=control)) for control in chosen
    }
    before = _earlier(look.before, folder / CLIP)
    left_out, compared = _compared(items, [clip, *controls.values(), *([before] if before else [])])
    controls = {
        control: {id: outcome for id, outcome in found.items() if control not in ORDER or id in several}
        for control, found in controls.items()
    }
    about: dict[str, Any] = {"benchmark": benchmark.name, "ckpt": str(settings.get("ckpt", "")), "score": options.score}
    about |= {"before_run": look.before, "left_out": left_out}
    data = summarize_look(compared, clip, controls, before, settings=about)
    if int(os.environ.get("RANK", "0")) == 0:
        write_look(folder, data)
    return data


def _chosen(look: LookOptions) -> list[Blind]:
    return [control for control in CONTROLS if control in look.controls]


def _is_image(video: Video) -> bool:
    return not isinstance(video.source, np.ndarray) and Path(video.source).suffix.lower() in IMAGES


def _compared(items: Sequence[Item], runs: Sequence[Mapping[str, Outcome]]) -> tuple[dict[str, int], list[Item]]:
    """Return how many items are left out, by reason, and the items that all runs asked about a video.

    Raises:
        DataError: There are none.
    """
    left_out = {"without a video": 0, "without an answer": 0, "not in the earlier run": 0, "not asked": 0}
    compared = []
    for item in items:
        found = [run.get(item.id) for run in runs]
        if not item.sample.videos:
            left_out["without a video"] += 1
        elif item.answer is None:
            left_out["without an answer"] += 1
        elif None in found:
            left_out["not in the earlier run"] += 1
        elif any(outcome is not None and outcome.status in NOT_ASKED for outcome in found):
            left_out["not asked"] += 1
        else:
            compared.append(item)
    if not compared:
        reasons = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
        failed = next((o for run in runs for o in run.values() if o.status in NOT_ASKED), None)
        raise DataError(
            f"no item can be compared: {reasons}; {failed.reason if failed else 'choose another benchmark or limit='}"
        )
    return left_out, compared


def _before(folder: str) -> Path:
    """Return the folder of the run with the clips.

    Raises:
        DataError: There is none.
    """
    path = expanded(folder)
    path = path / CLIP if (path / CLIP).is_dir() else path
    shown = Report.load(path).data.get("blind")
    if shown:
        raise DataError(f"before={folder}: this run shows {shown} in place of the clips; give one that shows them")
    return path


def _earlier(folder: str | None, clip: Path) -> dict[str, Outcome] | None:
    """Return the outcomes of the earlier run.

    Raises:
        DataError: It is of another benchmark, is incomplete, has no item in common, or other answers.
    """
    if folder is None:
        return None
    runs = load_runs([_before(folder), clip], ["before", "after"])
    return {id: runs[0].outcomes[id] for id in common_items(runs)}
