"""The files of a run, and what is made of them.

| module | what it does |
|---|---|
| `predictions` | `predictions.jsonl`: one row per item |
| `report` | `report.json` and `report.md` |
| `plots` | the plots of a report |
| `compare` | runs compared with each other, item by item |
| `comparison` | a comparison as files |
| `vlmevalkit` | a run as the table that a scorer of VLMEvalKit reads |
"""
