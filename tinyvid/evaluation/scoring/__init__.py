"""Score replies: from a text to a value in [0, 1], and from values to averages with intervals."""
