"""Data sets: rows of files become samples."""
