"""The model and its parts: vision towers, connectors, text decoders, LLMs and adapters."""
