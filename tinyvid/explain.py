"""Explain any error of a program in one line, and distinguish causes that users can fix from bugs."""

import errno
import json
import re
import traceback

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tinyvid.errors import TinyvidError, printable

DEBUG = "TINYVID_DEBUG"  # environment variable: 1 prints the traceback of every error
# Their errors are caused by files and settings of the user.
LIBRARIES = (
    *("PIL", "accelerate", "av", "bitsandbytes", "decord", "huggingface_hub", "hydra", "numpy", "omegaconf"),
    *("open_clip", "peft", "pyarrow", "safetensors", "timm", "tokenizers", "torchcodec", "transformers", "yaml"),
)
LESS_MEMORY = (
    "lower batch_size= (recipe.batch_size= in training), sampler.num_frames= or llm.max_length=, or load the LLM with "
    "quant=nf4 (recipes/estimate.py lists what needs memory)"
)
ADVICE = {
    errno.EACCES: "check its permissions, or choose another path",
    errno.EPERM: "check its permissions, or choose another path",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "choose another path, or remove it",
    errno.EMFILE: "lower the number of workers, or raise the limit with ulimit -n",
}


def explained(error: BaseException) -> tuple[str, int]:
    """Return the line that describes an error, and the exit status of a program that fails with it."""
    name, text = type(error).__name__, _message(error)
    library = _library(error)
    if isinstance(error, TinyvidError):
        return f"{name}: {text}", 2
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory|not enough memory", text):
        return f"OutOfMemoryError: {text}; {LESS_MEMORY}", 2
    if isinstance(error, OSError) and error.errno is not None:
        files = " -> ".join(repr(file) for file in (error.filename, error.filename2) if file is not None)
        advice = ADVICE.get(error.errno, "check the path")
        return printable(f"{name}: {files}{': ' if files else ''}{error.strerror}; {advice}"), 2
    if isinstance(error, OmegaConfBaseException | HydraException):
        key = getattr(error, "full_key", None)
        return printable(f"ConfigError: {f'{key}: ' if key else ''}{text}; correct the value, or quote it for Hydra"), 2
    if isinstance(error, ImportError):
        return f"{name}: {text}; install the package that is missing", 2
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return f"{name}: {text}; a file is damaged or not in the expected format. {DEBUG}=1 shows which", 2
    if library is not None or isinstance(error, OSError):
        return f"{name}{f' in {library}' if library else ''}: {text}; {DEBUG}=1 shows the traceback", 2
    return f"{name}: {text}. This is a bug: please report it with the traceback, which {DEBUG}=1 shows", 1


def _message(error: BaseException) -> str:
    """Return the message of an error: the last line from a DataLoader worker, the first line from a library."""
    text = str(error).strip()
    if "Original Traceback (most recent call last)" in text:
        return printable(text.splitlines()[-1].partition(": ")[2])
    return text if isinstance(error, TinyvidError) else printable(next(iter(text.splitlines()), "no message"))


def _library(error: BaseException) -> str | None:
    """Return the library that tinyvid called when the error occurred, unless the error is in tinyvid itself."""
    frames = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    called = frames[len(frames) - frames[::-1].index("tinyvid") :] if "tinyvid" in frames else frames
    if type(error).__module__ == "pyo3_runtime":
        return "a library in Rust"
    return next((name for name in called if name in LIBRARIES), None)
