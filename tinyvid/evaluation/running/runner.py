"""Run a benchmark: ask every item once, and write a report.

Items about one video share its decode and its tower pass. Decoding runs ahead of the model. Videos are distributed
over processes. The report depends only on the rows in ``predictions.jsonl`` and the annotation, so a run that was
resumed, or that used several processes, has the same report as an uninterrupted run.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tinyvid.assistant import Assistant
from tinyvid.data.skipped import SKIPPED, Skipped, read_skipped, write_skipped
from tinyvid.errors import ConfigError, DataError, listed, suggest
from tinyvid.evaluation.items import NOT_ASKED, Benchmark, Item, Outcome, Verdict
from tinyvid.evaluation.judging.judge import Case, Judge, judge_cases
from tinyvid.evaluation.judging.rubrics import RUBRICS
from tinyvid.evaluation.reporting.predictions import Predictions
from tinyvid.evaluation.reporting.report import Report, write_report
from tinyvid.evaluation.running.answering import Answerer, failures_of, outcome_of, skipped_of
from tinyvid.evaluation.running.blind import Control
from tinyvid.evaluation.running.record import describe, prepare
from tinyvid.evaluation.running.units import Missing, Preparer, Score, ahead, plan_units
from tinyvid.evaluation.scoring.averages import micro
from tinyvid.evaluation.scoring.references import key_frames_of
from tinyvid.evaluation.scoring.scores import check_answers, is_judged, rescore
from tinyvid.evaluation.scoring.timed import TIMED
from tinyvid.files import expanded
from tinyvid.generation.decode import Decoding
from tinyvid.outputs import owned
from tinyvid.registry import PositiveInt

logger = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(days=7)  # of a process that has finished its videos, for the others
VERDICTS = "judge.jsonl"


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Options for running a benchmark.

    Attributes:
        limit: Number of items to ask, evenly spaced over the benchmark; ``null`` for all.
        score: ``reply`` parses the model's reply; ``likelihood`` selects the option with the highest likelihood, for
            items with options.
        missing: What to do about missing videos: ``raise`` before any item is asked, or ``count`` them as failures in
            the report.
        batch_size: Items per batch of the LLM.
        workers: Threads that decode ahead of the model.
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 for greedy decoding; above 0, replies are sampled.
        top_p: Sample from the smallest set of tokens with this total probability; 1 keeps all tokens.
        seed: Seed of sampled replies.
        judge_cache: File of a judge's verdicts, to share between runs; ``null`` for a file in the run's folder.
        skip_listed: The ``skipped.jsonl`` of an earlier run. The videos that it lists are not opened; their items count
            as failures.
    """

    limit: PositiveInt | None = None
    score: Score = "reply"
    missing: Missing = "raise"
    batch_size: PositiveInt = 8
    workers: int = 2
    max_new_tokens: PositiveInt = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    judge_cache: str | None = None
    skip_listed: str | None = None

    @property
    def decoding(self) -> Decoding:
        """How replies are decoded.

        Raises:
            ConfigError: An option is out of range.
        """
        return Decoding(self.max_new_tokens, self.temperature, self.top_p, self.seed)


def evaluate(
    assistant: Assistant,
    benchmark: Benchmark,
    *,
    run_dir: str | Path,
    options: EvaluationOptions = EvaluationOptions(),
    judge: Judge | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Report:
    """Ask a model every item of a benchmark, and write a report.

    The folder receives ``predictions.jsonl``, ``report.json``, ``report.md``, plots and the benchmark's own files. A
    second call with the same folder continues the run. With several processes (torchrun, accelerate launch), all of
    them must call this function, and all of them return the report.

    Args:
        assistant: The model.
        benchmark: The benchmark; ``build_benchmark`` builds one from a configuration.
        run_dir: Folder of the run.
        options: Options of the run.
        judge: Judge of items with the rule ``judge``.
        settings: Additional settings of the model and the benchmark to include in the report.
        progress: Show a progress bar on standard error.

    Returns:
        The report.

    Raises:
        ConfigError: An option is wrong, a judge is missing, ``benchmark.blind`` has nothing to show, or the folder
            contains another run or is in use.
        DataError: There are no items, videos are missing, or no item fits into the LLM's context.
    """
    folder = expanded(run_dir)
    is_first = int(os.environ.get("RANK", "0")) == 0
    items = choose_items(benchmark, options.limit)
    check_judge(items, benchmark, judge)
    check_videos(items, benchmark, options.missing)
    skipped = read_listed(options.skip_listed, items, benchmark)
    control = Control.of(benchmark, items, listed=[*skipped])
    with owned(folder, key="run_dir") if is_first else nullcontext():
        _evaluate(
            assistant, benchmark, items, folder, options, judge, settings or {}, skipped, control, progress=progress
        )
    return Report.load(folder)


def _evaluate(
    assistant: Assistant,
    benchmark: Benchmark,
    items: list[Item],
    folder: Path,
    options: EvaluationOptions,
    judge: Judge | None,
    settings: Mapping[str, Any],
    skipped: Mapping[str, Skipped],
    control: Control | None,
    *,
    progress: bool,
) -> None:
    drawn = asdict(options.decoding) if options.temperature else {"max_new_tokens": options.max_new_tokens}
    identity = describe(assistant, benchmark, items, score=options.score, limit=options.limit, **drawn)
    state = PartialState(cpu=assistant.model.device.type == "cpu", timeout=LONGEST_WAIT)
    rows = Predictions(folder, state.process_index)
    if state.is_main_process:
        prepare(folder, identity)
        # Merge the rows into one file without truncated lines, and retry items that could not be asked.
        rows.rewrite([row for row in rows.read().values() if row.status not in NOT_ASKED])
    state.wait_for_everyone()
    unit_of = Preparer(assistant.processor, benchmark, items, options.max_new_tokens, options.score, skipped, control)
    _answer(assistant, unit_of, rows, options, state, progress=progress)
    state.wait_for_everyone()
    finished = rows.read()
    if all(row.status == "prompt_failed" for row in finished.values()):
        raise DataError(f"no item of benchmark '{benchmark.name}' can be asked: {finished[items[0].id].reason}")
    verdicts = _judge(judge, items, finished, expanded(options.judge_cache or folder / VERDICTS), state)
    if state.is_main_process:
        outcomes = [rescore(item, finished[item.id], verdicts.get(item.id)) for item in items]
        rows.rewrite(outcomes)
        more = {"batch_size": options.batch_size, "judge": dict(judge.identity) if judge else None}
        write_skipped(folder / SKIPPED, skipped_of(items, outcomes, reader=assistant.processor.reader.name))
        write_report(folder, benchmark, items, outcomes, identity | more | dict(settings))
    state.wait_for_everyone()


def choose_items(benchmark: Benchmark, limit: int | None) -> list[Item]:
    """Return the items of a run: all items, or ``limit`` items evenly spaced over the benchmark.

    Raises:
        DataError: There are no items, two items have the same id, or the key frames or the spans of an item's answer
            are malformed.
    """
    total = len(benchmark)
    if total == 0:
        raise DataError(f"benchmark '{benchmark.name}' has no items")
    count = min(limit or total, total)
    items = [benchmark[index * total // count] for index in range(count)]
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"two items of benchmark '{benchmark.name}' have the id '{item.id}'; ids must be unique")
        seen.add(item.id)
        key_frames_of(item)
        if item.rule in TIMED:
            check_answers(item)
    return items


def check_judge(items: Sequence[Item], benchmark: Benchmark, judge: Judge | None) -> None:
    """Check before a run that the judge can give the marks that the items need.

    Raises:
        ConfigError: A rubric is unknown, the judge is missing, or it cannot give the marks.
    """
    for name in sorted({item.rubric for item in items if is_judged(item)}):
        if name not in RUBRICS:
            raise ConfigError(f"benchmark '{benchmark.name}': rubric '{name}' is unknown. {suggest(name, RUBRICS)}")
        if judge is None:
            raise ConfigError(
                f"benchmark '{benchmark.name}' has open answers that need a judge; choose judge=local judge.path=..., "
                "judge=openai judge.url=... judge.model=..., or judge=exact"
            )
        if not judge.supports(RUBRICS[name]):
            marks = ", ".join(RUBRICS[name].marks)
            raise ConfigError(
                f"benchmark '{benchmark.name}' needs the marks {marks}, which judge={judge.identity['name']} cannot "
                "give; choose judge=local or judge=openai"
            )


def check_videos(items: Sequence[Item], benchmark: Benchmark, missing: Missing) -> None:
    """Check before a run that the videos exist.

    Raises:
        DataError: Videos are missing, and ``missing`` is ``raise``.
    """
    absent = _missing_videos(items)
    if not absent:
        return
    if missing == "raise":
        raise DataError(
            f"{len(absent)} videos of benchmark '{benchmark.name}' are missing: {listed(absent)}; get them from "
            f"{benchmark.source}, correct benchmark.root, or use missing=count to report them as failures"
        )
    logger.warning("%d videos are missing and count as failures: %s", len(absent), listed(absent))


def _missing_videos(items: Sequence[Item]) -> list[str]:
    """Return the missing video files of the items, each once, in order."""
    videos = [video for item in items for video in item.sample.videos]
    paths = dict.fromkeys(str(video.source) for video in videos if isinstance(video.source, str | Path))
    return [path for path in paths if not os.path.exists(expanded(path))]


def read_listed(path: str | None, items: Sequence[Item], benchmark: Benchmark) -> dict[str, Skipped]:
    """Return the items that ``skip_listed`` lists, by id.

    Raises:
        DataError: The file cannot be read, or lists no item of the run.
    """
    if path is None:
        return {}
    found = read_skipped(expanded(path))
    if not any(item.id in found for item in items):
        raise DataError(
            f"skip_listed={path} lists {len(found):,} items, but none of them is asked in this run of benchmark "
            f"'{benchmark.name}'; give the record of a run of the same benchmark"
        )
    return found


def _answer(
    assistant: Assistant,
    prepare_unit: Preparer,
    rows: Predictions,
    options: EvaluationOptions,
    state: PartialState,
    *,
    progress: bool,
) -> None:
    """Ask this process's share of the items that have no row yet."""
    items = prepare_unit.items
    done = rows.read()
    state.wait_for_everyone()  # no process may append before all have read
    units = plan_units(items, options.batch_size)[state.process_index :: state.num_processes]
    units = [unit for unit in units if any(items[index].id not in done for video in unit for index in video)]
    answerer = Answerer(assistant, batch_size=options.batch_size, decoding=options.decoding)
    waiting = sum(items[index].id not in done for unit in units for video in unit for index in video)
    shown = progress and state.is_main_process
    name, control = prepare_unit.benchmark.name, prepare_unit.control
    name += f" ({control.blind})" if control else ""
    with _Bar(waiting, name=name, done=[*done.values()], shown=shown) as bar:
        for groups in ahead(prepare_unit, units, options.workers):
            asked, answers = answerer.ask(groups)
            group_of = {question.index: group for group in asked for question in group.questions}
            new = failures_of(asked, items)
            moments = assistant.processor.template.moments
            new += [outcome_of(items[answer.index], answer, group_of[answer.index], moments) for answer in answers]
            # A unit that a kill interrupted is asked again as a whole, in the same batches; only new rows are written.
            new = [outcome for outcome in new if outcome.id not in done]
            rows.append(new)
            bar.add(new)


def _judge(
    judge: Judge | None, items: Sequence[Item], rows: Mapping[str, Outcome], cache: Path, state: PartialState
) -> dict[str, Verdict]:
    """Return the verdicts on all replies that need one, by item id. The processes share the work."""
    asked = [item for item in items if is_judged(item) and rows[item.id].prediction is not None]
    if judge is None or not asked:
        return {}
    mine = asked[state.process_index :: state.num_processes]
    cases = [
        Case(
            item.question or item.sample.messages[-1].text,
            " or ".join([str(item.answer), *item.alternatives]),
            str(rows[item.id].prediction),
            item.rubric,
        )
        for item in mine
    ]
    verdicts = [(item.id, verdict) for item, verdict in zip(mine, judge_cases(judge, cases, cache), strict=True)]
    return dict(gather_object(verdicts) if state.num_processes > 1 else verdicts)


class _Bar(Progress):
    """A progress bar on standard error, with the accuracy so far and the remaining time."""

    def __init__(self, total: int, *, name: str, done: Sequence[Outcome] = (), shown: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
            disable=not shown,
        )  # fmt: skip
        self.outcomes = list(done)
        self.add_task(name, total=total, accuracy=self._accuracy())

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Advance the bar by new outcomes."""
        self.outcomes += outcomes
        self.update(self.task_ids[0], advance=len(outcomes), accuracy=self._accuracy())

    def _accuracy(self) -> str:
        share = micro(self.outcomes)
        return "" if share != share else f"accuracy {share:.1%}"  # NaN is not itself
