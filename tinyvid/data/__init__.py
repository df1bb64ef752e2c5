"""Data sets: from rows of files to samples."""
