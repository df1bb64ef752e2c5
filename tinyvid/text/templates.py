"""Chat templates as data: one class, and a YAML file in ``conf/template`` for each format.

A template turns messages into segments: text to read, text to learn, and video slots. It uses neither a tokenizer nor
videos. Labels are created from the segments while tokenizing, so no code has to search for replies afterwards.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from tinyvid.errors import ConfigError, DataError
from tinyvid.registry import TEMPLATES, AtLeast, AtMost
from tinyvid.text.frame_text import PLAIN, FrameText
from tinyvid.text.moments import STYLE, Moments
from tinyvid.types import Message, Segment


@TEMPLATES.register("turns")
class TurnTemplate:
    """Write a conversation as ``system, (user, assistant), (user, assistant), ...``.

    Args:
        system: Default text of the system message; empty for no system message.
        start: Text at the beginning of every conversation, with or without a system message.
        system_turn: Where the system text is written: ``own`` is a turn of its own if there is a text, ``always`` also
            writes it without one, ``in_user`` writes the text at the beginning of the first user turn, and ``none``
            refuses it.
        system_prefix: Text before the system message.
        system_suffix: Text after the system message.
        user_prefix: Text before a user turn and its videos.
        text_prefix: Text before the user text of a turn without videos.
        video_suffix: Text after each video.
        user_suffix: Text after the user text.
        assistant_prefix: End of the prompt, after which the model writes.
        reply_prefix: First characters that the model writes, learned with the reply. If the tokenizer merges a space
            with the following word, put it here, not at the end of ``assistant_prefix``.
        end: End marker of a reply, learned with it.
        separator: Text between a reply and the next turn.
        read_user_text: ``False`` omits the user text, for captioning stages that show only the video.
        frame: Format of a frame; see ``tinyvid.text.frame_text``. Without ``{subtitle}``, subtitles are omitted.
        heading: Format of the text before the frames of each video; see ``tinyvid.text.frame_text``.
        control_tokens: Strings that the tokenizer must know as single tokens.
        time: Format of a time with one number; see ``tinyvid.text.moments``.
        time_steps: Number of steps that a clip is divided into for times; ``None`` for seconds after its start.

    Raises:
        ConfigError: ``end`` is empty, or ``frame``, ``heading`` or ``time`` is invalid.
    """

    def __init__(  # noqa: PLR0913 - a template is its strings
        self,
        *,
        system: str = "",
        start: str = "",
        system_turn: Literal["own", "always", "in_user", "none"] = "own",
        system_prefix: str = "",
        system_suffix: str = "",
        user_prefix: str = "",
        text_prefix: str = "",
        video_suffix: str = "\n",
        user_suffix: str = "",
        assistant_prefix: str = "",
        reply_prefix: str = "",
        end: str,
        separator: str = "",
        read_user_text: bool = True,
        frame: str = PLAIN,
        heading: str = "",
        control_tokens: list[str] = (),  # type: ignore[assignment]
        time: str = STYLE,
        time_steps: Annotated[int, AtLeast(1), AtMost(1000)] | None = None,
    ) -> None:
        if not end:
            raise ConfigError("template 'turns': template.end is empty; set an end marker, such as \\n")
        self.system = system
        self.start = start
        self.system_turn = system_turn
        self.system_prefix = system_prefix
        self.system_suffix = system_suffix
        self.user_prefix = user_prefix
        self.text_prefix = text_prefix
        self.video_suffix = video_suffix
        self.user_suffix = user_suffix
        self.assistant_prefix = assistant_prefix
        self.reply_prefix = reply_prefix
        self.end = end
        self.separator = separator
        self.read_user_text = read_user_text
        self.frame = FrameText(frame, heading)
        self.moments = Moments(time, time_steps)
        self.control_tokens = tuple(control_tokens)
        self.stop = (end,)

    def __call__(self, messages: Sequence[Message], *, slots: Sequence[int]) -> list[Segment]:
        """Return the segments of a conversation; see ``protocols.ChatTemplate``.

        Raises:
            DataError: The turns do not alternate, the first one is not the user's, or a system message has no place.
        """
        check_turns(messages)
        segments: list[Segment] = []
        if messages[0].role == "system":
            system, messages, slots = messages[0].text, messages[1:], slots[1:]
        else:
            system = self.system
        if system and self.system_turn == "none":
            raise DataError("this template has no place for a system message; move its text to the user's message")
        written = system or self.system_turn == "always"
        system = self.system_prefix + system + self.system_suffix if written else ""
        prompt = self.start if self.system_turn == "in_user" else self.start + system
        for number, (message, videos) in enumerate(zip(messages, slots, strict=True)):
            if message.role == "assistant":
                segments.append(Segment("prompt", prompt))
                kind: Literal["prompt", "reply"] = "reply" if message.loss else "prompt"
                segments.append(Segment(kind, self.reply_prefix + message.text + self.end))
                prompt = self.separator if number + 1 < len(messages) else ""
                continue
            prompt += self.user_prefix
            if number == 0 and self.system_turn == "in_user":
                prompt += system
            prompt += "" if videos else self.text_prefix
            text, places = (message.text, message.places) if self.read_user_text else ("", ())
            for _ in range(videos - len(places)):
                segments += [Segment("prompt", prompt), Segment("video")]
                prompt = self.video_suffix
            for start, place in zip((0, *places), places, strict=False):
                segments += [Segment("prompt", prompt + text[start:place]), Segment("video")]
                prompt = ""
            prompt += text[places[-1] if places else 0 :] + self.user_suffix + self.assistant_prefix
        segments.append(Segment("prompt", prompt))
        return [segment for segment in segments if segment.text or segment.kind == "video"]


def check_turns(messages: Sequence[Message]) -> None:
    """Check that turns alternate and that the user speaks first, after an optional system message.

    Raises:
        DataError: The turns are in another order; the message gives the first wrong one.
    """
    turns = list(messages)
    offset = 1 if turns and turns[0].role == "system" else 0
    turns = turns[offset:]
    if not turns:
        raise DataError("a conversation needs at least one user message")
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise DataError(
                f"message {number + offset} has role '{message.role}', expected '{expected}'; turns must alternate "
                "user, assistant, user, ... after an optional system message"
            )


TEMPLATES.defer("tokenizer", "tinyvid.text.tokenizer_template")  # imports this module
