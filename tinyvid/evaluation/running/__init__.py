"""Run a benchmark: ask every item once, and resume after a kill."""
