"""The errors that tinyvid raises on bad input, and the "did you mean" helper that their messages share.

Every message says what happened (with the value), where (configuration key, file and line, sample id) and
what to do about it (allowed values, nearest name, a command).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TinyvidError(Exception):
    """Catch this to catch every error that tinyvid raises on purpose."""


class ConfigError(TinyvidError):
    """A configuration has an unknown name, a missing value, or a value of the wrong type."""


class VideoError(TinyvidError):
    """A video, image or frame folder cannot be opened or decoded, or the requested clip lies outside it."""


class DataError(TinyvidError):
    """A sample cannot be used for training or inference: bad roles, too many tokens, wrong number of videos."""


class CheckpointError(TinyvidError):
    """A checkpoint directory has an unknown layout, or its weights do not fit the model it describes."""


class PluginError(TinyvidError):
    """An installed plugin cannot be imported, or registers a name that is already taken."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the closest allowed name, if any, then all allowed names.

    Example:
        >>> suggest("grup", ["group", "mlp"])
        "Did you mean 'group'? Available: group, mlp."
    """
    choices = sorted(allowed)
    near = get_close_matches(str(name), choices, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Available: {', '.join(choices) or 'none'}."
