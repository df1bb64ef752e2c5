"""How replies are drawn from a model: decoding, stop rules, streaming, and the log-probabilities of given replies."""
