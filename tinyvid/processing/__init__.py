"""From a sample to a batch: layout, length check, decoding, padding."""
