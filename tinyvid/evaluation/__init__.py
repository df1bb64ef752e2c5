"""Benchmarks, honestly scored: ask every item once, read replies by stated rules, and report what failed by name.

A benchmark is a class that fulfills ``items.Benchmark``; ``eval/custom.py`` is the example. It says what is asked
(``Item``) and which averages it publishes; everything else is here, the same for all of them:

    annotations   what benchmark classes share: files, letters, where the built-in ones are found
    replies       the end of a reply, without thinking and markup
    choices       extract_choice: the letter in a reply, or nothing
    scores        a reply to a value in [0, 1], by named rules
    rubrics       what a judge is asked; judge: the strict form of verdicts; judges: who judges
    units         what is decoded and asked together, ahead of the model
    answering     the model's part: a pass of the tower per video, questions in batches, likelihoods of options
    predictions   the rows of a run; record: what they depend on; outcomes: what they are worth
    runner        evaluate: all of it, resumable, on any number of processes
    averages      micro, macro, Wilson, bootstrap, McNemar
    report        report.json and report.md; plots: the pictures; progress: the bar
    compare       runs against each other; comparison: the same as files

Example::

    benchmark = build_benchmark({"name": "custom", "root": "my-questions"})
    report = evaluate(assistant, benchmark, run_dir="runs/mine")
    print(report.accuracy)
"""

from tinyvid.evaluation.judging.judge import Judge
from tinyvid.evaluation.judging.judges import ExactJudge, LocalJudge, OpenAIJudge
from tinyvid.evaluation.judging.rubrics import RUBRICS, Rubric
from tinyvid.evaluation.reporting.report import Report
from tinyvid.evaluation.running.annotations import build_benchmark, letter_of, lettered, require
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
