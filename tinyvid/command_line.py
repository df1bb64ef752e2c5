"""What all programs of tinyvid share: parsing of arguments and reporting of errors.

Free text (questions, paths) contains quotes, commas, brackets and equals signs that Hydra's grammar rejects, so the
values of keys that take free text are quoted before Hydra parses them.
"""

import io
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvid.config import CHANGEABLE, CONF_DIR, LIMIT, PARTS, REASONS, chosen, completed, compose, refuse_unknown
from tinyvid.errors import ConfigError, printable
from tinyvid.explain import DEBUG, explained
from tinyvid.files import expanded

PRESETS = ("model", "experiment")  # they choose parts; a preset may set the checkpoint of its parts
_SHOW = ("-c", "--cfg", "-h", "--help")  # flags that print the configuration and run nothing
# Flags that change where or how often Hydra composes: composing once beforehand could report wrong errors.
_OTHER_KEYS = ("-cp", "--config-path", "-cn", "--config-name")
_ELSEWHERE = ("-m", "--multirun", "-cd", "--config-dir", *_OTHER_KEYS)


# Keys that take a file, a folder, a hub id or a URL. Their values are literal text, except that ~ is the home folder
# and null means that the key is not set.
PATHS = (
    *("attention_map", "before", "ckpt", "convert_to", "eval_path", "evidence", "image", "judge_cache", "out", "push"),
    *("questions", "run", "run_dir", "skip_listed", "source", "video", "videos"),
    *("benchmark.captions", "benchmark.file", "benchmark.media_root", "benchmark.root", "benchmark.source"),
    *("cache.features", "cache.frames", "data.media_root", "data.path", "data.skip_listed", "judge.path", "judge.url"),
    *("llm.path", "llm.tokenizer", "reducer.path", "text_decoder.path", "text_decoder.tokenizer", "vision_tower.path"),
)
# Keys that take one folder, or several in brackets; each is literal text, in quotes if it contains a comma.
FOLDERS = ("benchmark.allowed_roots", "data.allowed_roots", "evaluations")
NAMED = "adapters."  # paths under names of the user's choice
# Other keys whose values are literal text: a commit of digits only is not a number.
TEXTS = (
    *("adapter", "license", "message", "name", "names", "question", "revision", "runs", "judge.model"),
    *("judge.revision", "llm.revision", "text_decoder.revision", "vision_tower.revision"),
)
# Options of templates whose values are literal text, in which \n is a line break.
PROMPTS = tuple(
    f"template.{option}"
    for option in (
        *("system", "start", "system_prefix", "system_suffix", "user_prefix", "text_prefix", "video_suffix"),
        *("user_suffix", "assistant_prefix", "reply_prefix", "end", "separator", "frame", "heading", "time"),
    )
)
# Groups that programs can do without.
REMOVABLE = ("benchmark", "debug", "experiment", "judge", "model", "motion", "reducer")


@dataclass
class CommandLine:
    """The arguments of a program, split into Hydra's overrides and Hydra's flags.

    Attributes:
        text: The given values of ``PATHS``, ``TEXTS`` and ``PROMPTS``.
        overrides: Overrides for Hydra, with those values quoted.
        flags: Arguments that begin with a dash, and their values.
        arguments: All arguments, as given.
    """

    text: dict[str, str | None] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "CommandLine":
        """Split ``arguments``. An argument without ``=`` is a flag, or the value of the flag before it.

        ``+key=`` and ``++key=`` are the same as ``key=``; they also set an option that the YAML file does not list. If
        a key is set several times, the last one counts, as in Hydra.

        Args:
            arguments: Without the program's name.

        Raises:
            ConfigError: An argument without ``=`` is neither, or a key cannot be removed.
        """
        line = cls(arguments=list(arguments))
        previous = ""
        given: dict[str, str] = {}
        for argument in arguments:
            sign, key, equals, value = _split(argument)
            if key in REMOVABLE and value == "null":
                sign, argument = "~", f"~{key}"
            elif key in REMOVABLE and "null" in value.split(","):
                raise ConfigError(f"{argument}: a sweep cannot include null; run {key}=null separately")
            is_flag = argument.startswith("-") or (not equals and not sign and previous.startswith("-"))
            previous = argument
            if is_flag:
                line.flags.append(argument)
                continue
            if not equals and sign != "~":
                raise ConfigError(f"argument {argument!r} has no '='; write key=value (--help lists the keys)")
            if sign == "~" and key not in REMOVABLE:
                raise ConfigError(
                    f"{argument}: only {', '.join(REMOVABLE)} can be removed; set {key}= to another value"
                )
            given.pop(key, None)  # scripts append to defaults, so the last one counts
            line.text.pop(key, None)
            given[key] = argument
            named = key.startswith(NAMED)
            if sign != "~" and (named or key in (*PATHS, *TEXTS, *PROMPTS)) and not _is_sweep(arguments, value):
                line.text[key] = _literal(key, value)
                given[key] = f"{'++' * named}{key}={quoted(line.text[key])}"
            elif sign != "~" and key in FOLDERS and value != "null":
                given[key] = f"{key}=[{','.join(map(quoted, _listed(value)))}]"
            elif sign.startswith("+"):
                is_group = key.isidentifier() and (CONF_DIR / key).is_dir()
                given[key] = f"{key}={value}" if is_group else f"++{key}={value}"
        line.overrides = _addable(given) if line.text.get("ckpt") is not None else list(given.values())
        return line

    def chosen(self, group: str) -> list[str]:
        """Return the overridden keys that choose ``group`` or set one of its options."""
        return chosen(self.overrides, group)

    def checkpoint_groups(self, config: DictConfig, *, allow: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the command line changes in a checkpoint, in the form that ``Assistant.from_pretrained`` accepts.

        Args:
            config: The composed configuration.
            allow: Groups of ``PARTS`` and ``PRESETS`` that may still be chosen.

        Returns:
            The whole group if the command line or an experiment chooses it, otherwise only the options set.

        Raises:
            ConfigError: The command line sets a part that a checkpoint fixes.
        """
        self.refuse_parts(allow=allow)
        limit = {"llm": {"max_length": config.llm.max_length}} if LIMIT in self.chosen("llm") else {}
        if self.chosen("experiment"):
            chosen = [group for group in CHANGEABLE if config.get(group) is not None or self.chosen(group)]
            return {group: _resolved(config, group) for group in chosen} | limit
        return {group: self._changes(config, group) for group in CHANGEABLE if self.chosen(group)} | limit

    def refuse_parts(self, *, allow: Sequence[str] = ()) -> None:
        """Raise ``ConfigError`` if the command line sets a group that a checkpoint fixes, except those in ``allow``."""
        own = self.text.get("ckpt")
        ckpt = "the checkpoint of the model preset" if own is None else f"ckpt={own!r}"
        for group in PARTS if own is None else (*PARTS, *PRESETS):
            for key in self.chosen(group) if group not in allow else []:
                if key != LIMIT:
                    reason, free = REASONS.get(group, ""), ", ".join(CHANGEABLE)
                    raise ConfigError(f"{key} is fixed by {ckpt}{reason}; only {free} and {LIMIT} can change")

    def shown(self) -> list[str]:
        """Return overrides that compose a run from a checkpoint: of the groups it determines, only the changes.

        Raises:
            ConfigError: The command line sets a part that the checkpoint fixes.
        """
        self.refuse_parts(allow=("experiment",))
        if self.text.get("ckpt") is None:
            return self.overrides  # the preset lists the parts of its checkpoint
        preset = self.chosen("experiment")
        groups = PARTS[:3] if preset else (*PARTS[:3], *CHANGEABLE)
        absent = [group for group in groups if group not in self.chosen(group)]
        own = [f"+{key}" if key.partition(".")[0] in absent else key for key in self.overrides]
        return [*own, *(f"~{group}" for group in (absent if preset else [*absent, "model"]))]

    def _changes(self, config: DictConfig, group: str) -> dict[str, Any] | None:
        chosen = self.chosen(group)
        values = _resolved(config, group)
        if group in chosen or values is None:
            return values
        return {key.partition(".")[2]: values[key.partition(".")[2]] for key in chosen}


def quoted(text: str | None) -> str:
    """Return text as a value for Hydra that stands for exactly this text; null for ``None``."""
    if text is None:
        return "null"
    escaped = re.sub(r"(\\*)\$\{", lambda found: rf"{found[1] * 2}\${{", text)  # otherwise an interpolation
    return QuotedString(escaped, Quote.single).with_quotes()


def run_hydra(task: Callable[[DictConfig, CommandLine], None], *, config: str) -> None:
    """Run a program on ``sys.argv``; an error prints one line, see ``readable_errors``.

    Args:
        task: Called with the composed configuration and the command line, once per run of a sweep (``-m``).
        config: Name of the primary configuration in ``conf/``.
    """
    quiet_libraries()
    escape_logs()
    with readable_errors():
        line = CommandLine.parse(sys.argv[1:])
        line.overrides = completed(line.overrides, config=config)

    @wraps(task)  # Hydra names the job after the program that defines the task
    def run(composed: DictConfig) -> None:
        with readable_errors():
            if not flags.intersection(_OTHER_KEYS):
                refuse_unknown(composed, line.overrides, config)
            task(composed, line)

    overrides, flags = line.overrides, {flag.partition("=")[0] for flag in line.flags}
    if flags.intersection(_SHOW) and hasattr(signal, "SIGPIPE"):  # Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when the reader has closed the pipe, such as head
    if not flags.intersection(_ELSEWHERE):
        with readable_errors():
            composed = compose(overrides, config=config)  # its error messages suggest the closest key
            if flags.intersection(_SHOW) and "llm" in composed and composed.get("ckpt") is not None:
                overrides = line.shown()
    sys.argv[1:] = overrides + line.flags
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints its own errors and exits
    with readable_errors():
        hydra.main(config_path=str(CONF_DIR), config_name=config, version_base="1.3")(run)()
        leave_processes()


def quiet_libraries() -> None:
    """Hide messages of other libraries that users cannot act on. Only programs call this, never an import."""
    # peft uses the deprecated name whenever it creates or loads an adapter.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # On CPUs with AVX512-BF16, bitsandbytes looks for an optional kernel on import.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(lambda record: "Failed to load CPU gemm_4bit_forward" not in str(record.msg))


def escape_logs() -> None:
    """Escape control characters in log messages, such as those in file names. Only programs call this."""

    class PrintableRecord(logging.LogRecord):
        def getMessage(self) -> str:
            return printable(super().getMessage())

    logging.setLogRecordFactory(PrintableRecord)


def leave_processes() -> None:
    """Destroy the process group of a distributed run, which may otherwise abort the program at exit.

    Call it only after a successful run. After an error, the processes could wait for each other forever.
    """
    distributed = sys.modules.get("torch.distributed")  # do not import torch, which takes seconds, to find out
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _split(argument: str) -> tuple[str, str, bool, str]:
    """Return the sign of an override (``+``, ``++``, ``~`` or none), its key, whether it has a ``=``, and its value."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)], name, bool(equals), value


def _is_sweep(arguments: Sequence[str], value: str) -> bool:
    """Return whether the value of a key that takes text lists several, as in ``-m ckpt=choice(a,b)``."""
    several = {"-m", "--multirun"}.intersection(arguments)
    return bool(several) and value.startswith("choice(") and value.endswith(")") and not os.path.lexists(value)


def _listed(value: str) -> list[str]:
    """Return the folders that the value of a key in ``FOLDERS`` lists."""
    if not (value.startswith("[") and value.endswith("]")) or os.path.lexists(value):
        return [_at_home(value)]
    found = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]+)\s*(?:,|$)""", value[1:-1])
    return [_at_home(re.sub(r"""^(["'])(.*)\1$""", r"\2", folder.strip())) for folder in found]


def _addable(given: Mapping[str, str]) -> list[str]:
    """Return overrides, by key, that can also set options of a checkpoint's groups that no YAML file lists."""

    def sign(key: str, override: str) -> str:
        group, _, option = key.partition(".")
        return "++" if option and group in CHANGEABLE and group not in given and override[0] != "+" else ""

    return [f"{sign(key, override)}{override}" for key, override in given.items()]


def _literal(key: str, value: str) -> str | None:
    """Return the text that the value of a key in ``PATHS``, ``TEXTS`` or ``PROMPTS`` stands for."""
    if key in TEXTS:
        return value
    if value == "null":
        return None
    return value.replace("\\n", "\n") if key in PROMPTS else _at_home(value)


def _at_home(path: str) -> str:
    return str(expanded(path)) if path.startswith("~") else path  # a Path would change a URL


def _resolved(config: DictConfig, group: str) -> dict[str, Any] | None:
    if config.get(group) is None:
        return None
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config[group], resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {str(error).splitlines()[0]}") from error


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print an error as one line and exit: status 2 if the user can change its cause, 1 for a bug, 130 for Ctrl-C.

    ``TINYVID_DEBUG=1`` prints the traceback as well. A closed standard output, such as that of ``head``, ends the
    program quietly.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack characters of a reply or a file name
    try:
        yield
        sys.stdout.flush()
    except (SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes the standard output again at exit
        sys.exit(128 + 13)  # as if ended by SIGPIPE
    except BaseException as error:  # a panic of a library in Rust is not an Exception
        if os.environ.get(DEBUG, "0") != "0":
            traceback.print_exc()
        line, status = explained(error)
        sys.stderr.write(f"{line}\n")
        sys.exit(status)
