"""From samples to batches: layout, length check, decoding and padding."""
