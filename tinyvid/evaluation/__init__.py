"""Run benchmarks: ask every item once, score replies by fixed rules, and report every failure.

A benchmark is a class that implements ``items.Benchmark``; ``eval/custom.py`` is an example. It defines the items
(``Item``) and the averages to report. This package provides everything else:

| module or package | content |
|---|---|
| `items` | items, their outcomes, and the `Benchmark` protocol |
| `annotations` | helpers of benchmark classes: files, letters, `build_benchmark` |
| `builtin` | registers the benchmarks of `eval/` |
| `scoring/` | from a reply to a value, and from values to averages |
| `judging/` | rubrics, verdicts and judges for open answers |
| `reporting/` | files of a run: predictions, report, plots, comparisons |
| `running/` | `evaluate`: decode, ask, record, resume |

Example::

    benchmark = build_benchmark({"name": "custom", "root": "my-questions"})
    report = evaluate(assistant, benchmark, run_dir="runs/mine")
    print(report.accuracy)
"""
