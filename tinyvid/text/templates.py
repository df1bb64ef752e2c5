"""Chat templates as data: one class, and a YAML file in ``conf/template`` for every way of writing a conversation.

A template turns messages into segments of text. It knows no tokenizer and no video: it only says where the videos
stand, what a model reads and what it learns. Labels follow from the segments while tokenizing, so nothing searches
for reply spans afterwards.
"""

from collections.abc import Sequence

from tinyvid.errors import ConfigError, DataError
from tinyvid.registry import TEMPLATES
from tinyvid.text.frame_text import PLAIN, FrameText
from tinyvid.types import Message, Segment


@TEMPLATES.register("turns")
class TurnTemplate:
    """Write a conversation as ``system, (user, assistant), (user, assistant), ...``.

    Args:
        system: Text of the system message where the conversation brings none; empty for no system message.
        system_prefix: Stands before the system text.
        system_suffix: Stands after the system text.
        user_prefix: Stands before a user turn, in front of its videos.
        video_suffix: Stands after each video, in front of the user text.
        user_suffix: Stands after the user text.
        assistant_prefix: Ends the prompt: the model writes from here.
        reply_prefix: First characters that the model writes, learned with the reply. A space belongs here rather than
            at the end of ``assistant_prefix`` where the tokenizer merges it with the first word.
        end: Ends a reply, learned with it.
        separator: Stands between a reply and the next turn.
        read_user_text: ``False`` drops what the user says, as in captioning stages that show only the video.
        frame: How a frame of a video is written; see ``tinyvid.text.frame_text``. Without ``{subtitle}``
            subtitles are left out.
        control_tokens: Strings that the tokenizer must know as single tokens.

    Raises:
        ConfigError: ``end`` is empty, or ``frame`` cannot be read.
    """

    def __init__(  # noqa: PLR0913 - a template is its strings
        self,
        *,
        system: str = "",
        system_prefix: str = "",
        system_suffix: str = "",
        user_prefix: str = "",
        video_suffix: str = "\n",
        user_suffix: str = "",
        assistant_prefix: str = "",
        reply_prefix: str = "",
        end: str,
        separator: str = "",
        read_user_text: bool = True,
        frame: str = PLAIN,
        control_tokens: list[str] = (),  # type: ignore[assignment]
    ) -> None:
        if not end:
            raise ConfigError("template 'turns': template.end is empty; a reply must end with something, such as \\n")
        self.system = system
        self.system_prefix = system_prefix
        self.system_suffix = system_suffix
        self.user_prefix = user_prefix
        self.video_suffix = video_suffix
        self.user_suffix = user_suffix
        self.assistant_prefix = assistant_prefix
        self.reply_prefix = reply_prefix
        self.end = end
        self.separator = separator
        self.read_user_text = read_user_text
        self.frame = FrameText(frame)
        self.control_tokens = tuple(control_tokens)
        self.stop = (end,)

    def __call__(self, messages: Sequence[Message], *, slots: Sequence[int]) -> list[Segment]:
        """Return the segments of a conversation; see ``protocols.ChatTemplate``.

        Raises:
            DataError: The turns do not alternate, or do not begin with the user's.
        """
        check_turns(messages)
        segments: list[Segment] = []
        if messages[0].role == "system":
            system, messages, slots = messages[0].text, messages[1:], slots[1:]
        else:
            system = self.system
        prompt = self.system_prefix + system + self.system_suffix if system else ""
        for number, (message, videos) in enumerate(zip(messages, slots, strict=True)):
            if message.role == "assistant":
                segments.append(Segment("prompt", prompt))
                segments.append(Segment("reply", self.reply_prefix + message.text + self.end))
                prompt = self.separator if number + 1 < len(messages) else ""
                continue
            prompt += self.user_prefix
            for _ in range(videos):
                segments.append(Segment("prompt", prompt))
                segments.append(Segment("video"))
                prompt = self.video_suffix
            prompt += (message.text if self.read_user_text else "") + self.user_suffix + self.assistant_prefix
        segments.append(Segment("prompt", prompt))
        return [segment for segment in segments if segment.text or segment.kind == "video"]


def check_turns(messages: Sequence[Message]) -> None:
    """Check that turns alternate, beginning with the user's after an optional system message.

    Raises:
        DataError: Which message breaks the rule.
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
                f"message {number + offset} has role '{message.role}' where '{expected}' must come: turns alternate "
                "user, assistant, user, ... after an optional system message"
            )
