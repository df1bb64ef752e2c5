"""Run benchmarks: ask every item once, read replies by stated rules, and name what failed.

A benchmark is a class that fulfills ``items.Benchmark``; ``eval/custom.py`` is the example. It says what is asked
(``Item``) and which averages it publishes. Everything else is here, the same for all benchmarks:

| module or package | what is in it |
|---|---|
| `items` | what a benchmark consists of, what became of each item, and the `Benchmark` protocol |
| `annotations` | what benchmark classes share: files, letters, `build_benchmark` |
| `builtin` | registers the benchmarks of `eval/` |
| `scoring/` | from a reply to a value, and from values to averages |
| `judging/` | rubrics, verdicts and judges for open answers |
| `reporting/` | the files of a run: rows, report, plots, comparisons |
| `running/` | `evaluate`: decode, ask, record, resume |

Example::

    benchmark = build_benchmark({"name": "custom", "root": "my-questions"})
    report = evaluate(assistant, benchmark, run_dir="runs/mine")
    print(report.accuracy)
"""

from tinyvid.evaluation.annotations import build_benchmark, letter_of, lettered, require
from tinyvid.evaluation.judging.judge import Judge
from tinyvid.evaluation.judging.judges import ExactJudge, LocalJudge, OpenAIJudge
from tinyvid.evaluation.judging.rubrics import RUBRICS, Rubric
from tinyvid.evaluation.reporting.report import Report
from tinyvid.evaluation.running.runner import EvaluationOptions, evaluate
from tinyvid.evaluation.scoring.averages import macro, micro
from tinyvid.evaluation.scoring.choices import extract_choice

__all__ = [
    "RUBRICS",
    "EvaluationOptions",
    "ExactJudge",
    "Judge",
    "LocalJudge",
    "OpenAIJudge",
    "Report",
    "Rubric",
    "build_benchmark",
    "evaluate",
    "extract_choice",
    "letter_of",
    "lettered",
    "macro",
    "micro",
    "require",
]
