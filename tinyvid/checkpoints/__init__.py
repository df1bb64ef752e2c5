"""Checkpoints: the native layout, and readers of other projects' layouts in ``compat``."""
