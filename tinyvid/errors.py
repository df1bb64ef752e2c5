"""The errors that tinyvid raises on bad input, and the "did you mean" helper that their messages share.

Every message says what happened (with the value), where (configuration key, file and line, sample id) and
what to do about it (allowed values, nearest name, a command).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

MAX_CAUSE = 400  # characters of a library's message; some list every name that they know, or repeat a whole value
# Control characters other than tabs and line breaks, changes of the writing direction, and half characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text for a terminal or a log: control characters are escaped, except tabs and line breaks."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class TinyvidError(Exception):
    """Catch this to catch every error that tinyvid raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


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


@contextmanager
def raised_as(kind: type[TinyvidError], where: str, advice: str) -> Iterator[None]:
    """Raise every error of another library as an error of the given type, so that one bad file cannot end a run.

    Put it around the call of a library that reads an untrusted file, row or checkpoint. Errors of tinyvid and those
    about a full GPU stay as they are.

    Args:
        kind: Type of the error.
        where: The file, row or key, for the message.
        advice: What to do about it.
    """
    try:
        yield
    except (TinyvidError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is not an Exception
        if type(error).__name__ == "OutOfMemoryError":  # torch's; this module does not import torch
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        cause = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
        if len(cause) > MAX_CAUSE:
            cause = f"{cause[:MAX_CAUSE]}..."
        raise kind(f"{where}: {type(error).__name__}: {cause}; {advice}") from error


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Return the first ``limit`` names of a list, separated by commas, and the number of the others, for a message."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


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
