"""From a video file to pixels: readers, sampling of frames, and the only resize and normalization."""
