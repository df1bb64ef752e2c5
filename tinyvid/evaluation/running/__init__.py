"""Run a benchmark: ask every item once, and resume after a kill.

| module | what it does |
|---|---|
| `runner` | `evaluate`: the whole run, on any number of processes |
| `units` | what is decoded and asked together, ahead of the model |
| `answering` | the model's part: one pass of the tower per video, questions in batches, likelihoods of options |
| `record` | what the rows of a run depend on: compared when a run is resumed |
"""
