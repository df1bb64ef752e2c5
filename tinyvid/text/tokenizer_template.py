"""Learn the strings of ``template=turns`` from the chat template of a tokenizer.

The template is rendered once, with words as contents. What stands between the words are the options of
``TurnTemplate``. Then ordinary conversations are rendered and compared, so a template is reproduced exactly or refused.
A checkpoint stores the strings: no Jinja runs later, replies to learn are exact, and a changed file changes nothing.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tinyvid.errors import ConfigError
from tinyvid.registry import TEMPLATES, AtLeast, AtMost
from tinyvid.text.frame_text import PLAIN, FrameText
from tinyvid.text.moments import STYLE, Moments
from tinyvid.text.templates import TurnTemplate
from tinyvid.types import Message

MAX_SECONDS = 60  # for rendering all conversations; it takes less than one on an idle machine
MAX_TEMPLATE = 1 << 20  # characters
ADVICE = "choose another template, or write its strings with template=turns"
SYSTEM, USERS, REPLIES = "qsystemq", ("quseraq", "quserbq", "qusercq"), ("qreplyaq", "qreplybq")
CONTENTS = ("What moves?", "Two lines.\nThe second: {a} [b] <c> 100 %.")  # of the conversations that are compared


def _probes() -> tuple[list[Message], list[Message]]:
    """Return a conversation of words, without and with a system message."""
    turns = [Message("user", USERS[0])]
    for reply, user in zip(REPLIES, USERS[1:], strict=True):
        turns += [Message("assistant", reply), Message("user", user)]
    return turns, [Message("system", SYSTEM), *turns]


def _ordinary(system: list[Message]) -> list[list[Message]]:
    """Return prompts and finished conversations of one and two turns."""
    found = []
    for first, second in itertools.product(CONTENTS, CONTENTS):
        turns = [*system, Message("user", first), Message("assistant", second)]
        turns += [Message("user", second), Message("assistant", first)]
        found += [turns[:number] for number in range(len(system) + 1, len(turns) + 1)]
    return found


PROBES = _probes()
ORDINARY = [_ordinary([]), _ordinary([Message("system", "Be brief.")])]


@TEMPLATES.register("tokenizer")
@dataclass(frozen=True, kw_only=True)
class TokenizerTemplate:
    """The chat template of the LLM's tokenizer, which ``settle`` replaces by the strings of ``TurnTemplate``.

    Attributes:
        system: Default text of the system message; ``None`` for that of the template.
        thinking: Value of ``enable_thinking`` for templates that have it: whether the model thinks before it replies.
        video_suffix: Text after each video.
        frame: As in ``TurnTemplate``.
        heading: As in ``TurnTemplate``.
        time: As in ``TurnTemplate``.
        time_steps: As in ``TurnTemplate``.

    Raises:
        ConfigError: ``frame``, ``heading`` or ``time`` is invalid.
    """

    system: str | None = None
    thinking: bool = False
    video_suffix: str = "\n"
    frame: str = PLAIN
    heading: str = ""
    time: str = STYLE
    time_steps: Annotated[int, AtLeast(1), AtMost(1000)] | None = None

    def __post_init__(self) -> None:
        FrameText(self.frame, self.heading)
        Moments(self.time, self.time_steps)

    def settle(self, tokenizer: Any) -> dict[str, Any]:
        """Return the group ``template`` with ``name: turns`` and every option.

        Raises:
            ConfigError: The tokenizer has no chat template, or it cannot be rendered or reproduced.
        """
        probe = Probe(tokenizer, thinking=self.thinking)
        learned = probe.learn()
        probe.compare(TurnTemplate(**learned))
        own: dict[str, Any] = {"video_suffix": self.video_suffix, "frame": self.frame, "heading": self.heading}
        own |= {"time": self.time, "time_steps": self.time_steps}
        if self.system is not None:
            own["system"] = self.system
        return {"name": "turns", **TEMPLATES.check({"name": "turns", **learned, **own})}


class Probe:
    """The chat template of a tokenizer, rendered in a process with limits on time and memory.

    Args:
        tokenizer: A tokenizer of transformers.
        thinking: Value of ``enable_thinking``.

    Raises:
        ConfigError: The tokenizer has no chat template, or it cannot be rendered, takes too long, or needs too much
            memory.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool) -> None:
        self.where = f"template=tokenizer: the chat template of the tokenizer in {tokenizer.name_or_path!r}"
        template = getattr(tokenizer, "chat_template", None)
        self.template = template.get("default") if isinstance(template, Mapping) else template
        if not isinstance(self.template, str) or not self.template:
            raise ConfigError(
                f"template=tokenizer: the tokenizer in {tokenizer.name_or_path!r} has no chat template; {ADVICE}"
            )
        if len(self.template) > MAX_TEMPLATE:
            raise ConfigError(f"{self.where} has {len(self.template):,} characters; at most {MAX_TEMPLATE:,} are read")
        special = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        self.variables = {**special, "enable_thinking": thinking}
        self.special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.bos = str(tokenizer.bos_token or "")
        self.adds_bos = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        self.texts = self._render([*PROBES, *ORDINARY[0], *ORDINARY[1]])

    def _render(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Return conversations as the template writes them, without the token that the tokenizer writes first.

        A conversation that ends with a user message ends with the prompt for a reply. It is ``None`` if the template
        refuses it, as some refuse system messages.
        """
        rendered = [
            {
                "messages": [{"role": message.role, "content": message.text} for message in messages],
                "add_generation_prompt": messages[-1].role == "user",
            }
            for messages in conversations
        ]
        answer = _run({"template": self.template, "variables": self.variables, "conversations": rendered}, self.where)
        if isinstance(answer, str) or "error" in answer[0]:
            reason = answer if isinstance(answer, str) else answer[0]["error"]
            raise ConfigError(f"{self.where} cannot be rendered: {reason}; {ADVICE}")
        return [self._without_bos(entry["text"]) if "text" in entry else None for entry in answer]

    def _without_bos(self, text: str) -> str:
        if not self.adds_bos:
            return text
        if not text.startswith(self.bos):
            raise ConfigError(f"{self.where} does not begin with {self.bos!r}, which the tokenizer writes; {ADVICE}")
        return text.removeprefix(self.bos)

    def learn(self) -> dict[str, Any]:
        """Return the options of ``TurnTemplate`` that reproduce the template, if any do.

        Raises:
            ConfigError: The template does not write turns one after the other, each in the same way.
        """
        plain, given = self.texts[:2]
        words = [message.text for message in PROBES[0]]
        assert plain is not None  # or _render() would have raised
        front, *between, prompt = self._split(plain, words)
        for name, first, second in (("user's", between[0], between[2]), ("assistant's", between[1], between[3])):
            if first != second:
                self._refuse(f"the text behind the {name} first and second turn", first, second)
        if not between[0].startswith(prompt):
            self._refuse("the text before a reply and the prompt for one", between[0], prompt)
        end, rest = self._end(between[1])
        user_prefix = _common_end(rest, front).lstrip()
        options: dict[str, Any] = {
            "user_prefix": user_prefix,
            "assistant_prefix": prompt,
            "reply_prefix": between[0].removeprefix(prompt),
            "end": end,
            "separator": rest.removesuffix(user_prefix),
            **self._system(front.removesuffix(user_prefix), given, words, user_prefix, [*between, prompt]),
        }
        strings = [value for value in options.values() if isinstance(value, str)]
        options["control_tokens"] = [token for token in self.special if any(token in text for text in strings)]
        return options

    def _system(
        self, front: str, given: str | None, words: Sequence[str], user_prefix: str, after: Sequence[str]
    ) -> dict[str, Any]:
        """Return the options for the system message; ``front`` is what the template writes without one."""
        if given is None:
            return {"start": front, "system_turn": "none"}
        before, suffix, *others = self._split(given, [SYSTEM, *words])
        if others != after:
            both = next(pair for pair in zip(others, after, strict=True) if pair[0] != pair[1])
            self._refuse("the turns with and without a system message", *both)
        if not suffix.endswith(user_prefix):
            prefix = before.removeprefix(front + user_prefix)
            if prefix == before:
                self._refuse("the beginning with and without a system message", before, front + user_prefix)
            return {"start": front, "system_turn": "in_user", "system_prefix": prefix, "system_suffix": suffix}
        suffix = suffix.removesuffix(user_prefix)
        if before.startswith(front):
            return {"start": front, "system_prefix": before.removeprefix(front), "system_suffix": suffix}
        if not front.startswith(before) or not front.endswith(suffix) or len(front) < len(before) + len(suffix):
            self._refuse("the system message and the default one", before, front)
        default = front[len(before) : len(front) - len(suffix)]
        turn = "own" if default else "always"
        return {"system": default, "system_turn": turn, "system_prefix": before, "system_suffix": suffix}

    def _end(self, text: str) -> tuple[str, str]:
        """Split the text between a reply and the next user message behind its first special token."""
        found = [(text.index(token), -len(token), token) for token in self.special if token and token in text]
        if not found:
            raise ConfigError(f"{self.where} writes no special token behind a reply, but {text!r:.80}; {ADVICE}")
        place, _, token = min(found)
        return text[: place + len(token)], text[place + len(token) :]

    def _split(self, text: str, words: Sequence[str]) -> list[str]:
        """Return the texts around the words of a conversation."""
        parts = []
        for word in words:
            if text.count(word) != 1:
                raise ConfigError(f"{self.where} does not write each turn once, in order; {ADVICE}")
            before, _, text = text.partition(word)
            parts.append(before)
        return [*parts, text]

    def compare(self, template: TurnTemplate) -> None:
        """Check that the strings write ordinary conversations as the chat template does.

        A finished conversation may continue after the end of the reply, which is neither learned nor read.

        Raises:
            ConfigError: A conversation differs; the message shows where.
        """
        conversations = ORDINARY[0] if template.system_turn == "none" else [*ORDINARY[0], *ORDINARY[1]]
        for messages, theirs in zip(conversations, self.texts[len(PROBES) :], strict=False):
            if theirs is None:
                raise ConfigError(f"{self.where} does not write a conversation of {len(messages)} messages; {ADVICE}")
            ours = "".join(segment.text for segment in template(messages, slots=[0] * len(messages)))
            finished = messages[-1].role == "assistant"
            if ours != (theirs[: len(ours)] if finished else theirs):
                kind = "a finished conversation" if finished else "a prompt"
                self._refuse(f"{kind} of {len(messages)} messages, once with the strings of one turn,", theirs, ours)

    def _refuse(self, what: str, first: str, second: str) -> None:
        place = _num_common(first, second)
        shown = [text[max(0, place - 20) : place + 40] for text in (first, second)]
        raise ConfigError(f"{self.where} cannot be reproduced: {what} differ: {shown[0]!r} and {shown[1]!r}; {ADVICE}")


def _num_common(first: str, second: str) -> int:
    """Return the number of characters that two texts have in common at the beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _common_end(first: str, second: str) -> str:
    return first[len(first) - _num_common(first[::-1], second[::-1]) :]


def _run(request: Mapping[str, Any], where: str) -> Any:
    """Return the answer of ``template_reader``: a list, or the reason of a failure."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("template_reader.py"))]
    try:
        done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{where} was still running after {MAX_SECONDS} s; {ADVICE}") from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:  # the process was killed
        raise ConfigError(f"{where} cannot be rendered: its process ended early; {ADVICE}") from error
