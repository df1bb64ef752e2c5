"""Dense captions as a dialog: the events can be read back from every route."""

import pytest

from tinyvid.data.cotasks import ROUTES, dialog
from tinyvid.data.formats import Moment
from tinyvid.data.timed_questions import CAPTIONS, COUNT, DESCRIBE, SEGMENTS
from tinyvid.evaluation.scoring.captions import read_events
from tinyvid.evaluation.scoring.spans import read_spans

EVENTS = [Moment("v", 0.0, 8.0, "A man lights the stove."), Moment("v", 6.25, 20.5, "he adds 2 to 3 eggs")]
SPANS = "<time:0> to <time:8>\n<time:6.25> to <time:20.5>"
CAPTIONED = "A man lights the stove.\nHe adds 2 to 3 eggs."
BOTH = "<time:0> to <time:8> A man lights the stove.\n<time:6.25> to <time:20.5> He adds 2 to 3 eggs."
ASKED = {
    "time_first": [(COUNT, "2 events."), (SEGMENTS, SPANS), (DESCRIBE, BOTH)],
    "caption_first": [(COUNT, "2 events."), (CAPTIONS, CAPTIONED), (SEGMENTS, SPANS)],
    "direct": [(DESCRIBE, BOTH)],
}


@pytest.mark.parametrize("route", ROUTES)
def test_dialog(route):
    turns = dialog(EVENTS, route)
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    texts = [turn["value"] for turn in turns]
    assert list(zip(texts[::2], texts[1::2], strict=True)) == ASKED[route]


def test_events_are_read_back():
    reply = dialog(EVENTS, "direct")[-1]["value"]
    assert read_events(reply) == [(0.0, 8.0, "A man lights the stove."), (6.25, 20.5, "He adds 2 to 3 eggs.")]
    assert read_spans(dialog(EVENTS, "caption_first")[-1]["value"]) == [(0.0, 8.0), (6.25, 20.5)]
    assert dialog(EVENTS[:1], "time_first")[1]["value"] == "1 event."
