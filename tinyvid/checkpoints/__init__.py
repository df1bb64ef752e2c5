"""Read and write checkpoints: the native layout, and readers of other projects' layouts in ``compat``."""
