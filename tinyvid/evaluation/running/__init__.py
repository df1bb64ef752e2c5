"""Ask every item once: shared decoding, batches, rows on disk, resuming."""
