"""Dense captions: reading them from replies, CIDEr-D and SODA, compared with their definitions."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from tinyvid import DataError
from tinyvid.evaluation.scoring.captions import (
    cider_d,
    dense_cider_d,
    read_events,
    soda,
    unigram_f1,
    words_of,
    write_events,
)
from tinyvid.evaluation.scoring.spans import iou

STOVE = [(2.4, 9.0, "A man lights the stove."), (9.0, 12.5, "He cooks two eggs.")]
WORDS = st.sampled_from(["a", "man", "lights", "the", "stove", "and", "cooks"])
SENTENCES = st.lists(WORDS, max_size=7).map(" ".join)
EVENTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 9), SENTENCES).map(lambda e: (float(e[0]), float(e[0] + e[1]), e[2])),
    max_size=4,
)


@pytest.mark.parametrize(
    "text",
    [
        "<time:2.4> to <time:9.0> A man lights the stove.\n<time:9.0> to <time:12.5> He cooks two eggs.",
        "From <time:2.4> to <time:9>, A man lights the stove. From <time:9> to <time:12.5>, He cooks two eggs.",
        "2.4 - 9.0 seconds, A man lights the stove. 9.0 - 12.5 seconds, He cooks two eggs.",
        "Here are the events:\n1. 0:02.4 - 0:09: A man lights the stove.\n2. 0:09 - 0:12.5: He cooks two eggs.",
        "Event 1: 2.4 - 9.0\nA man lights the stove.\n\nEvent 2: 9.0 - 12.5\nHe cooks\ntwo eggs.\n",
        "1. A man lights the stove. (2.4 - 9.0)\n2. He cooks two eggs. (9.0 - 12.5)",
        '[{"start_time": 2.4, "end_time": 9, "caption": "A man lights the stove."}, '
        '{"start_time": 9, "end_time": 12.5, "caption": "He cooks\\ntwo eggs."}]',
        '[{"sentence": "A man lights the stove.", "timestamp": [2.4, 9]}, '
        '{"sentence": "He cooks two eggs.", "timestamp": [9, 12.5]}]',
    ],
)
def test_reads_events(text):
    assert read_events(text) == STOVE


def test_reads_events_without_a_sentence():
    assert read_events("[2.4, 9.0]\n[9, 12.5] He cooks.") == [(2.4, 9.0, ""), (9.0, 12.5, "He cooks.")]
    assert read_events("A man lights the stove.") == []
    quoted = '{"start": 2, "end": 4, "caption": "a \\x b"}'
    assert read_events(quoted) == [(2.0, 4.0, "a \\x b")], "broken JSON is kept as written"


def test_events_are_written_and_read_back():
    assert read_events(write_events(STOVE)) == STOVE
    counted = [(2.4, 9.0, "The team wins by 2."), (9.0, 12.5, "Add 2 - 3 cups in step 4)")]
    assert [words_of(text) for *_, text in read_events(write_events(counted))] == [words_of(t) for *_, t in counted]
    assert read_events("1. 1-2 s, a man. 2. 3-4 s, a dog.") == [(1.0, 2.0, "a man."), (3.0, 4.0, "a dog.")]
    assert write_events([(0, 1, "a\n b")]) == "<time:0> to <time:1> a b"


def test_words():
    assert words_of("The man doesn't STOP; it’s a close-up of 2.5 kg!") == (
        ["the", "man", "does", "n't", "stop", "it", "'s", "a", "close-up", "of", "2.5", "kg"]
    )
    assert words_of(" ...") == []


def cider_d_by_definition(candidates, references):
    """Compute CIDEr-D from its formulas, with vectors over the whole vocabulary."""

    def count(text, key):
        words = text.split()
        return sum(tuple(words[first : first + len(key)]) == key for first in range(len(words)))

    documents = [[*texts] for texts in references]
    texts = [*candidates, *(text for document in documents for text in document)]
    scores = []
    for candidate, document in zip(candidates, documents, strict=True):
        total = 0.0
        for reference in document:
            for size in (1, 2, 3, 4):
                keys = {tuple(t.split()[i : i + size]) for t in texts for i in range(len(t.split()) - size + 1)}
                keys = sorted(keys)
                df = [max(1, sum(any(count(t, key) for t in other) for other in documents)) for key in keys]
                idf = [math.log(len(documents) / frequency) for frequency in df]
                given = [count(candidate, key) * weight for key, weight in zip(keys, idf, strict=True)]
                right = [count(reference, key) * weight for key, weight in zip(keys, idf, strict=True)]
                norm = math.hypot(*given) * math.hypot(*right)
                product = sum(min(a, b) * b for a, b in zip(given, right, strict=True))
                pairs = [max(0, len(t.split()) - 1) for t in (candidate, reference)]
                total += (product / norm if norm else 0) * math.exp(-((pairs[0] - pairs[1]) ** 2) / 72)
        scores.append(10 * total / 4 / len(document))
    return scores


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=2)), min_size=1, max_size=3))
def test_cider_d_equals_its_definition(pairs):
    candidates, references = zip(*pairs, strict=True)
    assert cider_d(candidates, references) == pytest.approx(cider_d_by_definition(candidates, references))


def test_cider_d_has_the_published_properties():
    texts = ["A man lights the stove.", "two dogs run in a park", "she opens the red door slowly"]
    assert cider_d(texts, [[text] for text in texts]) == pytest.approx([10, 10, 10]), "equal sentences score 10"
    references = [["a man lights a stove", "someone cooks"], ["dogs run", "two dogs play in a park"], ["a door opens"]]
    scores = cider_d(texts, references)
    assert scores == pytest.approx(cider_d(texts, [right[::-1] for right in references]))
    changed = cider_d(texts, [*references[:2], ["two dogs run in a park"]])
    assert changed[1] < scores[1], "words that more references share count less"
    assert cider_d(["a man lights the stove " * 5, "x"], [["a man lights the stove"], ["y"]])[0] < 2, "repetition"
    assert cider_d(["cat", "x"], [["dog"], ["y"]]) == [0, 0]
    assert cider_d(["a cat", "x"], [["a cat"], ["y"]])[0] == pytest.approx(5), "too short for three or four words"
    assert cider_d(["a cat"], [["a cat"]]) == [0], "one document has no rare words"
    with pytest.raises(DataError, match="2 candidates need as many non-empty lists of references"):
        cider_d(["a", "b"], [["a"], []])


def test_dense_cider_d_compares_sentences_of_spans_that_overlap():
    gold = [STOVE, [(0.0, 5.0, "two dogs run in a park")]]
    assert dense_cider_d(gold, gold) == pytest.approx(10)
    swapped = [[(*one[:2], other[2]) for one, other in zip(STOVE, STOVE[::-1], strict=True)], gold[1]]
    assert dense_cider_d(swapped, gold) == pytest.approx(10 / 3), "one of three sentences is right"
    moved = [[(0.0, 6.0, STOVE[0][2]), STOVE[1]], gold[1]]  # IoU 0.4 with the first span
    assert dense_cider_d(moved, gold) < dense_cider_d(gold, gold)
    assert dense_cider_d(moved, gold, [0.3]) == pytest.approx(10)
    assert dense_cider_d(moved, gold, [0.4]) == pytest.approx(20 / 3), "an IoU of 0.4 is not above 0.4"
    assert dense_cider_d([[], gold[1]], gold) == 0, "one document has no rare words"
    assert dense_cider_d([[], []], gold) == 0


def test_unigram_f1():
    assert unigram_f1("A man cooks.", "a man cooks") == 1
    assert unigram_f1("the the cat", "the cat sat") == pytest.approx(2 * 2 / 6), "a repeated word counts once here"
    assert unigram_f1("", "a") == unigram_f1("", "") == 0


def soda_by_definition(predicted, gold):
    """Try every match of events that keeps their order."""
    total = 0.0
    for events, right in zip(predicted, gold, strict=True):
        events, right = (sorted(one, key=lambda event: event[0]) for one in (events, right))
        total += max(
            sum(iou(a[:2], b[:2]) * unigram_f1(a[2], b[2]) for a, b in zip(some, others, strict=True))
            for size in range(min(len(events), len(right)) + 1)
            for some in combinations(events, size)
            for others in combinations(right, size)
        )
    counts = sum(map(len, predicted)), sum(map(len, gold))
    precision, recall = (total / count if count else 0 for count in counts)
    return 2 * precision * recall / (precision + recall) if total else 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(EVENTS, EVENTS), max_size=2))
def test_soda_equals_its_definition(pairs):
    predicted, gold = [events for events, _ in pairs], [events for _, events in pairs]
    assert soda(predicted, gold) == pytest.approx(soda_by_definition(predicted, gold))


def test_soda_by_hand():
    assert soda([STOVE], [STOVE]) == soda([STOVE[::-1]], [STOVE]) == pytest.approx(1)
    assert soda([STOVE[:1], []], [STOVE, STOVE]) == pytest.approx(2 * 1 / (1 + 4)), "events that are omitted count"
    assert soda([STOVE * 2], [STOVE]) == pytest.approx(2 * 2 / (4 + 2)), "so do repeated ones"
    assert soda([[]], [[]]) == 0
    assert soda([STOVE], [[(2.4, 9.0, "x"), (9.0, 12.5, "y")]], lambda a, b: 0.5) == pytest.approx(0.5)
