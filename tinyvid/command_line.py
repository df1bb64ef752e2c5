"""What all programs of tinyvid share: parsing of arguments and reporting of user errors.

Free text (questions, paths) contains quotes, commas, brackets and equals signs that Hydra's grammar rejects, so Hydra
never sees the values of a program's free-text keys.
"""

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvid.config import CONF_DIR, LIMIT, PARTS, chosen, completed, compose
from tinyvid.errors import ConfigError, TinyvidError, printable

CHANGEABLE = ("sampler", "template", "video_reader")  # groups that may differ from a checkpoint's
PRESETS = ("model", "experiment")  # they choose parts; a preset may set the checkpoint of its parts
_SHOW = ("-c", "--cfg", "-h", "--help")  # flags that print the configuration and run nothing
# Flags that change where or how often Hydra composes: composing once beforehand could report wrong errors.
_ELSEWHERE = ("-m", "--multirun", "-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name")


@dataclass
class CommandLine:
    """The arguments of a program, split into free text, Hydra's overrides and Hydra's flags.

    Attributes:
        text: The unparsed values of free-text keys.
        overrides: Overrides for Hydra.
        flags: Arguments that begin with a dash, and their values.
    """

    text: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: Sequence[str], *, free_text: Sequence[str] = ()) -> "CommandLine":
        """Split ``arguments``. An argument without ``=`` is a flag, or the value of the flag before it.

        Args:
            arguments: Without the program's name.
            free_text: Keys whose values Hydra must not see.

        Raises:
            ConfigError: An argument without ``=`` is neither.
        """
        line = cls()
        previous = ""
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals and not argument.startswith(("-", "~")) and not previous.startswith("-"):
                raise ConfigError(f"argument {argument!r} has no '='; write key=value (--help lists the keys)")
            previous = argument
            if equals and key in free_text:
                line.text[key] = value
            elif equals and not argument.startswith("-"):
                line.overrides.append(argument)
            else:
                line.flags.append(argument)
        return line

    def chosen(self, group: str) -> list[str]:
        """Return the overridden keys that choose ``group`` or set one of its options."""
        return chosen(self.overrides, group)

    def checkpoint(self, config: DictConfig) -> str | None:
        """Return the checkpoint to start from: ``ckpt=`` on the command line, else the model preset's, if any."""
        return self.text.get("ckpt", config.get("ckpt"))

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
            return {group: _resolved(config, group) for group in CHANGEABLE} | limit
        return {group: self._changes(config, group) for group in CHANGEABLE if self.chosen(group)} | limit

    def refuse_parts(self, *, allow: Sequence[str] = ()) -> None:
        """Raise ``ConfigError`` if the command line sets a group that a checkpoint fixes, except those in ``allow``."""
        ckpt = f"ckpt={self.text['ckpt']!r}" if "ckpt" in self.text else "the checkpoint of the model preset"
        for group in (*PARTS, *PRESETS) if "ckpt" in self.text else PARTS:
            for key in self.chosen(group) if group not in allow else []:
                if key != LIMIT:
                    raise ConfigError(f"{key} is fixed by {ckpt}; only {', '.join(CHANGEABLE)} and {LIMIT} can change")

    def shown(self) -> list[str]:
        """Return overrides that compose a run from a checkpoint: of the groups it determines, only the changes.

        Raises:
            ConfigError: The command line sets a part that the checkpoint fixes.
        """
        self.refuse_parts(allow=("experiment",))
        if "ckpt" not in self.text:
            return self.overrides  # the preset lists the parts of its checkpoint
        preset = self.chosen("experiment")
        groups = PARTS[:3] if preset else (*PARTS[:3], *CHANGEABLE)
        absent = [group for group in groups if group not in self.chosen(group)]
        own = [f"+{key}" if key.partition(".")[0] in absent else key for key in self.overrides]
        ckpt = self.text["ckpt"].replace("'", r"\'")
        return [*own, f"ckpt='{ckpt}'", *(f"~{group}" for group in (absent if preset else [*absent, "model"]))]

    def _changes(self, config: DictConfig, group: str) -> dict[str, Any]:
        chosen = self.chosen(group)
        values = _resolved(config, group)
        if group in chosen:
            return values
        return {key.partition(".")[2]: values[key.partition(".")[2]] for key in chosen}


def run_hydra(task: Callable[[DictConfig, CommandLine], None], *, config: str, free_text: tuple[str, ...] = ()) -> None:
    """Run a program on ``sys.argv``; a user error prints one line and exits with status 2.

    Args:
        task: Called with the composed configuration and the command line, once per run of a sweep (``-m``).
        config: Name of the primary configuration in ``conf/``.
        free_text: Keys whose values Hydra must not see; their text is in ``CommandLine.text``.
    """
    quiet_libraries()
    escape_logs()
    with readable_errors():
        line = CommandLine.parse(sys.argv[1:], free_text=free_text)
        line.overrides = completed(line.overrides, config=config)

    @wraps(task)  # Hydra names the job after the program that defines the task
    def run(composed: DictConfig) -> None:
        with readable_errors():
            task(composed, line)

    overrides, flags = line.overrides, {flag.partition("=")[0] for flag in line.flags}
    if flags.intersection(_SHOW) and hasattr(signal, "SIGPIPE"):  # Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when the reader has closed the pipe, such as head
    if not flags.intersection(_ELSEWHERE):
        with readable_errors():
            composed = compose(overrides, config=config)  # its error messages suggest the closest key
            if flags.intersection(_SHOW) and "llm" in composed and line.checkpoint(composed) is not None:
                overrides = line.shown()
    sys.argv[1:] = overrides + line.flags
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


def _resolved(config: DictConfig, group: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config[group], resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {str(error).splitlines()[0]}") from error


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print a ``TinyvidError`` as one line and exit with status 2; exit with status 130 on Ctrl-C."""
    try:
        yield
    except TinyvidError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
