"""From video files to pixels: readers, frame samplers, resizing and normalization."""
