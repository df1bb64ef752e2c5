"""What benchmarks that ask for times share: moments by video, answers, averages and a submission format."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tinyvid import Item, Outcome
from tinyvid.data.formats import Moment
from tinyvid.evaluation.scoring.captions import read_events, write_events
from tinyvid.evaluation.scoring.timed import timed_averages

LENGTHS = (5, 15, 60)  # seconds: bounds of the groups of windows by length
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


class TimedItems:
    """The items of a benchmark with timed rules, and their averages."""

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return the question about one sentence or one video."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the published averages of the rules of the items, in percent."""
        asked = {item.id: item for item in self.items}  # a run may ask only some of them
        return timed_averages([asked[outcome.id] for outcome in outcomes], outcomes)


def by_video(moments: Iterable[Moment]) -> dict[str, list[Moment]]:
    """Return the moments of each video, sorted by time; videos are in the order of the file."""
    found: dict[str, list[Moment]] = {}
    for moment in moments:
        found.setdefault(moment.code, []).append(moment)
    return {code: sorted(several, key=lambda moment: (moment.start, moment.end)) for code, several in found.items()}


def events_of(moments: Sequence[Moment]) -> str:
    """Return moments as the answer of an item with the rule ``events``."""
    return write_events([(moment.start, moment.end, moment.sentence) for moment in moments])


def length_of(moment: Moment) -> str:
    """Return the group of a window by its length, such as ``5 to 15 s``."""
    length, bounds = moment.end - moment.start, pairwise((0, *LENGTHS))
    return next((f"{low} to {high} s" for low, high in bounds if length <= high), f"over {LENGTHS[-1]} s")


def caption_submission(outcomes: Sequence[Outcome]) -> str:
    """Return dense captions in the format of the ActivityNet Captions challenge, by the ids of their items.

    A video whose reply could not be parsed has an empty list of events.
    """
    results: Mapping[str, list[dict[str, object]]] = {
        outcome.id: [
            {"sentence": sentence, "timestamp": [start, end]}
            for start, end, sentence in read_events(outcome.prediction or "")
        ]
        for outcome in outcomes
    }
    external = {"used": True, "details": "pretrained vision tower and language model"}
    return json.dumps({"version": "VERSION 1.0", "results": results, "external_data": external}, indent=1)
