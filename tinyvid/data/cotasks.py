"""Dense captions as a dialog of easier tasks (Chain-of-Tasks of VidChain, arXiv:2501.06761).

The first turn asks how many events there are. The next two ask for times and captions, in either order.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from tinyvid.data.formats import Moment
from tinyvid.data.timed_questions import CAPTIONS, COUNT, DESCRIBE, SEGMENTS
from tinyvid.text.moments import marker

Route = Literal["time_first", "caption_first", "direct"]
ROUTES: tuple[Route, ...] = get_args(Route)


def dialog(moments: Sequence[Moment], route: Route) -> list[dict[str, str]]:
    """Return a dialog about the events of a video.

    Its last reply is in the format of the rule ``events``, except for ``caption_first``, which ends with the times.

    Args:
        moments: Events of one video, in order. They may overlap.
        route: ``time_first`` or ``caption_first`` after the number of events; ``direct`` asks for everything at once,
            in the words of the benchmarks.
    """
    spans = [f"{marker('time', moment.start)} to {marker('time', moment.end)}" for moment in moments]
    captions = [_sentence(moment.sentence) for moment in moments]
    described = "\n".join(f"{span} {caption}" for span, caption in zip(spans, captions, strict=True))
    count = (COUNT, f"{len(moments)} {'event' if len(moments) == 1 else 'events'}.")
    asked = {
        "time_first": [count, (SEGMENTS, "\n".join(spans)), (DESCRIBE, described)],
        "caption_first": [count, (CAPTIONS, "\n".join(captions)), (SEGMENTS, "\n".join(spans))],
        "direct": [(DESCRIBE, described)],
    }
    return [
        {"from": role, "value": text}
        for turn in asked[route]
        for role, text in zip(("human", "gpt"), turn, strict=True)
    ]


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."
