"""The files of a run: predictions, reports, plots, comparisons and exports."""
