"""Training rows from the sentences and times of Animal Kingdom: descriptions, grounding, and multiple choice."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyvid.data.formats import Moment
from tinyvid.errors import DataError

Row = dict[str, Any]
Moments = Mapping[str, Sequence[Moment]]  # by video

DESCRIBE = (
    "What does each animal in the video do? Describe every action in a sentence of its own, and none twice. "
    "There may be a single animal."
)
GROUND = 'When does this happen in the video: "{sentence}"? Give start and end in seconds.'
WHICH = "Which of these does the clip show?"


def descriptions(by_code: Moments, *, keep_repeats: bool) -> Iterator[Row]:
    """Yield one row per video; the reply joins its sentences in file order."""
    for code, moments in sorted(by_code.items()):
        sentences = [moment.sentence for moment in moments]
        text = " ".join(sentences if keep_repeats else dict.fromkeys(sentences))
        yield {"id": f"animal_kingdom:{code}", "code": code, "conversations": turns(DESCRIBE, text)}


def groundings(by_code: Moments) -> Iterator[Row]:
    """Yield one row per video and sentence that asks when it happens; the reply lists every time span."""
    for code, moments in sorted(by_code.items()):
        for sentence in dict.fromkeys(moment.sentence for moment in moments):
            spans = sorted([m.start, m.end] for m in moments if m.sentence == sentence)
            answer = ", ".join(f"{start:.1f} - {end:.1f} s" for start, end in spans)
            question = GROUND.format(sentence=sentence)
            yield {
                "id": identity(code, sentence),
                "code": code,
                "spans": spans,
                "conversations": turns(question, answer),
            }


def choices(by_code: Moments, *, num_options: int, seed: int) -> Iterator[Row]:
    """Yield one row per moment that asks what its clip shows; wrong options are sentences of other videos."""
    known = sorted({moment.sentence for moments in by_code.values() for moment in moments})
    for code, moments in sorted(by_code.items()):
        own = {moment.sentence for moment in moments}
        others = [sentence for sentence in known if sentence not in own]  # sentences of this video may be true as well
        if len(others) < num_options - 1:
            raise DataError(
                f"{code}: {len(others)} sentences of other videos are too few for --options {num_options}; lower it"
            )
        for moment in dict.fromkeys(moments):
            name = identity(code, moment.sentence, moment.start, moment.end)
            drawn = random.Random(f"{seed}:{name}").sample(others, num_options - 1)
            options = shuffled([moment.sentence, *drawn], seed, name)
            yield {
                "id": name,
                "code": code,
                "clip": [moment.start, moment.end],
                "conversations": turns(WHICH),
                "options": options,
                "answer_index": options.index(moment.sentence),
            }


def turns(question: str, answer: str | None = None) -> list[dict[str, str]]:
    """Return a question and its answer, if any, as the turns of a row."""
    asked = [{"from": "human", "value": question}]
    return asked if answer is None else [*asked, {"from": "gpt", "value": answer}]


def shuffled(options: Sequence[str], seed: int | None, name: str) -> list[str]:
    """Return the options shuffled per row, or in their given order without a seed."""
    order = list(options)
    if seed is not None:
        random.Random(f"{seed}:{name}:order").shuffle(order)
    return order


def identity(code: str, *parts: object) -> str:
    """Return an id from a video and the question about it."""
    return f"animal_kingdom:{code}:{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"
