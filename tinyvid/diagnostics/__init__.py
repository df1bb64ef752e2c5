"""Check a run before it starts: faults of the data set, sequence lengths, and GPU memory."""
