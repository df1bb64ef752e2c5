"""Warnings about the content of a file, once per file and process, although it may be read many times."""

import logging
from functools import lru_cache

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1 << 16)
def warn_once(name: str, message: str) -> None:
    """Log a warning about a file, unless it was logged before."""
    logger.warning("%s: %s", name, message)
