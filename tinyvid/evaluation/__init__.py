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
