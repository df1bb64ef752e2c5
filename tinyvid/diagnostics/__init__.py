"""What can be told before a run: faults of a data set, lengths, memory, and whether a card holds it."""
