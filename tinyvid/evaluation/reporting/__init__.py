"""The files of a run: rows, report, plots, comparisons, and the tables that other scorers read."""
