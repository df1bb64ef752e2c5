"""Judge answers that no rule can compare.

| module | what it does |
|---|---|
| `rubrics` | what a judge is asked, and which marks it gives |
| `judge` | the strict form of a verdict, attempts, and the cache of verdicts |
| `judges` | the judges: `exact`, `local` and `openai` |
"""
