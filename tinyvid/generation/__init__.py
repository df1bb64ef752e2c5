"""Generate replies: greedy decoding, sampling, stop rules and streaming; log-probabilities of given replies."""
