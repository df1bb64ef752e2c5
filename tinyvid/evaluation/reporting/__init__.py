"""Reports, pictures, comparisons of runs, and tables for other scorers."""
