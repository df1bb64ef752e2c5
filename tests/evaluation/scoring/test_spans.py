"""Spans of time: reading them from replies, and the metrics of moment retrieval, compared with their definitions."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tinyvid.evaluation.scoring.spans import (
    AP_THRESHOLDS,
    average_precision,
    clip_scores,
    f1_at,
    hit_at_1,
    in_file_seconds,
    iou,
    precision_recall_at,
    read_spans,
    recall_at,
    saliency_average_precision,
    write_spans,
)

SECONDS = st.floats(0, 999_999).map(lambda seconds: round(seconds, 9))
SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda s: (float(s[0]), float(s[0] + s[1]))))
SOME = SPANS.filter(bool)


@pytest.mark.parametrize(
    "text",
    [
        "<time:2.4> to <time:9.0>",
        "From <time:2.4> to <time:9>.",
        "<time:2.4> - <time:9.0>, not from 1 to 5 seconds",  # markers take precedence
        "<frame:2.4> to <frame:9>",
        "<time:2.4> to <time:9> - 3 men walk",
        "A man walks into the frame.\n<time:2.4> to <time:9>",  # no number of a frame
        "A man walks into the frame.\n2.4 - 9 s",
        '{"start_time": <time:2.4>, "end_time": <time:9>}',
        "from 2.4 to 9.0 seconds",
        "From 2.4 to 9.0 seconds, 2 to 3 men walk.",  # and words take precedence over bare pairs
        "2.4s - 9s",
        "2.4–9.0",
        "2.4-9",
        "**2.4** to **9.0**",
        "1 - 2.4 to 9",
        "between 2.4 and 9 seconds",
        "from about 2.4 to around 9.0 seconds",
        "second 2.4 to second 9",
        "from the 2.4-second mark to the 9-second mark",
        "2.4 sec. to 9 sec.",
        "starts at 2.4 s and ends at 9 s",
        "begins at about 2.4 seconds and goes on until 9.0 seconds",
        "Start: 2.4 s\nEnd: 9 s",
        '{"start_time": 2.4, "end_time": 9.0}',
        '{"start": "0:02.4", "end": "0:09"}',
        '"start_timestamp": "2.4s", "end_timestamp": "9s"',
        "[[2.4, 9]]",
        "(2.4s,9s)",
        "0:02.4 to 0:09",
        "0:00:02.4 to 0:00:09",
        "00:00:02,400 --> 00:00:09,000",
    ],
)
def test_reads_a_span(text):
    assert read_spans(text) == [(2.4, 9.0)]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("0:05 to 0:12", [(5, 12)]),
        ("1:02:03 - 1:02:05.5", [(3723, 3725.5)]),
        ("1 minute 5 seconds to 1 minute 20 seconds", [(65, 80)]),
        ("[[2.4, 9], [12,15], [2.4, 9]]", [(2.4, 9), (12, 15), (2.4, 9)]),  # repeated spans are kept
        ("1. 2.4 - 9.0\n2. 5 - 15", [(2.4, 9), (5, 15)]),  # so are overlapping ones
        ("<time:1> to <time:2>\n<time:9> to <time:3>; <time:4> to <time:4>", [(1, 2), (4, 4)]),
    ],
)
def test_reads_several_spans(text, spans):
    assert read_spans(text) == spans


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know.",
        "at 5 seconds",
        "at 3 and 7 seconds",
        "20% to 40%",
        "from 20 percent to 40 per cent",
        "20-40%",
        "1 to 2 minutes",
        "2m to 5m",
        "It starts with 3 people and ends with 5 people.",
        "starts at 3 s and lasts for 5 s",
        "3 to 5 frames",
        "frames 3 to 9",
        "Frame 3 to Frame 9",
        "start frame: 3, end frame: 9",
        "9 to 2",
        "[9, 2]",
        "<time:9> to <time:2>",
        "-3 to 5",
        "5 to -3",
        '{"start": -3, "end": 5}',
        "nan to inf",
        "[NaN, Infinity]",
        "1e5 to 1e6",
        "1,200 to 1,300 s",
        "1234567 to 2345678",
        "9" * 400 + " to " + "9" * 400,
        "12, 14, 16",
        "[12, 14, 16]",
        "[0, 0, 1, 1, 0]",
        "0x3 1x5 0x2",
        "2021-03-05",
        "12:30:61 - 3",
    ],
)
def test_guesses_nothing(text):
    assert read_spans(text) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["start ", "1 to ", "[1,", "<time:1> ", " ", "start 1 end ", "from about 1m ", "start" + " " * 40]
)
def test_reading_takes_linear_time(piece):
    def seconds(length):
        text = (piece * length)[:length]
        started = time.process_time()
        read_spans(text)
        return time.process_time() - started

    seconds(1000)
    assert seconds(30_000) < 100 * max(seconds(3_000), 0.002), "ten times the text, ten times the time"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789.:,-to[]() smfrantediw<>%\n"), max_size=80))
def test_every_span_is_in_order_and_finite(text):
    for start, end in read_spans(text):
        assert 0 <= start <= end < math.inf
    assert read_spans(write_spans(read_spans(text))) == read_spans(text)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SECONDS, SECONDS).map(lambda span: tuple(sorted(span)))))
def test_spans_are_written_and_read_back(spans):
    assert read_spans(write_spans(spans)) == spans


def test_spans_in_words_become_seconds_of_the_file():
    text = "<think>1 - 2 or [3, 4]</think> From **2.4** to 0:09, <time:12> to 15 s, 1 or 2."
    moved = in_file_seconds(text, 10)
    assert moved == "<think>11 - 12 or 13 s to 14 s</think> 12.4 s to 19 s, 12 s to 25 s, 1 or 2."
    assert read_spans(moved) == [(13, 14), (12.4, 19), (12, 25)], "bare pairs still do not count"
    marked = "<time:12> to <time:15>. no idea"
    assert in_file_seconds(marked, 10) == marked


@settings(deadline=None, max_examples=50)
@given(SOME, SOME)
def test_iou_is_symmetric_and_between_0_and_1(first, second):
    one, other = first[0], second[0]
    assert iou(one, other) == iou(other, one)
    assert 0 <= iou(one, other) <= 1
    shared = [t for t in range(60) if one[0] <= t < one[1] and other[0] <= t < other[1]]
    either = [t for t in range(60) if one[0] <= t < one[1] or other[0] <= t < other[1]]
    assert iou(one, other) == len(shared) / len(either), "counted second by second"


def test_iou_of_equal_and_disjoint_spans():
    assert iou((2.4, 9.0), (2.4, 9.0)) == iou((3, 3), (3, 3)) == 1
    assert iou((0, 2), (2, 4)) == iou((0, 2), (5, 9)) == iou((3, 3), (4, 4)) == 0
    assert iou((0, 10), (5, 15)) == 1 / 3


def precision_by_definition(predicted, gold, threshold):
    """Average precision: at each number of hits, the highest precision of a prefix with that many hits."""
    left, hits = list(gold), []
    for span in predicted[:10]:
        near = [right for right in left if iou(span, right) >= threshold]
        hits.append(bool(near))
        if near:
            left.remove(max(near, key=lambda right: iou(span, right)))
    prefixes = [(sum(hits[:size]), size) for size in range(1, len(hits) + 1)]
    best = [max([count / size for count, size in prefixes if count >= k], default=0) for k in range(1, len(gold) + 1)]
    return sum(best) / len(gold)


@settings(deadline=None, max_examples=50)
@given(SPANS, SOME)
def test_average_precision_equals_its_definition(predicted, gold):
    for threshold in (0.3, 0.5, 0.7):
        expected = precision_by_definition(predicted, gold, threshold)
        assert average_precision(predicted, gold, [threshold]) == pytest.approx(expected)
    expected = np.mean([precision_by_definition(predicted, gold, threshold) for threshold in AP_THRESHOLDS])
    assert average_precision(predicted, gold) == pytest.approx(expected)


def test_average_precision_by_hand():
    gold = [(0.0, 10.0), (20.0, 30.0)]
    wrong = (50.0, 60.0)
    assert average_precision([gold[0], wrong, gold[1]], gold) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([wrong, gold[0]], gold, [0.5]) == pytest.approx(0.25)
    assert average_precision([gold[0], gold[0], gold[1]], gold) == pytest.approx((1 + 2 / 3) / 2), "matched one to one"
    assert average_precision([(0.0, 7.0)], gold[:1]) == 5 / 10, "IoU 0.7 meets 0.50 to 0.70"
    assert average_precision([wrong] * 10 + gold, gold) == 0, "only ten spans count"
    assert average_precision([], gold) == 0
    assert AP_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_recall_counts_the_first_spans():
    gold = [(0.0, 10.0), (20.0, 30.0)]
    assert recall_at([(20.0, 27.0)], gold, 0.7) == 1, "any correct span, and ties count"
    assert recall_at([(20.0, 26.0)], gold, 0.7) == 0
    assert recall_at([(50.0, 60.0), gold[0]], gold, 0.5) == 0
    assert recall_at([(50.0, 60.0), gold[0]], gold, 0.5, k=2) == 1
    assert recall_at([], gold, 0.5) == 0


def test_precision_and_recall_match_many_to_many():
    gold = [(0.0, 10.0), (20.0, 30.0), (40.0, 50.0)]
    predicted = [(0.0, 10.0), (0.0, 9.0), (21.0, 30.0), (70.0, 80.0)]
    assert precision_recall_at(predicted, gold, 0.5) == (3 / 4, 2 / 3)
    assert f1_at(predicted, gold, 0.5) == pytest.approx(2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3))
    assert precision_recall_at(predicted, gold, 0.9) == (1 / 4, 1 / 3), "an IoU of 0.9 is not above 0.9"
    assert precision_recall_at([], gold, 0.5) == (0, 0)
    assert f1_at([], gold, 0.5) == 0


@settings(deadline=None, max_examples=50)
@given(SOME.map(lambda spans: list(dict.fromkeys(spans))[:10]))
def test_gold_against_gold_is_1(gold):
    assert average_precision(gold, gold) == pytest.approx(1)
    assert [f1_at(gold, gold, threshold) for threshold in (0.3, 0.5, 0.7, 0.9)] == [1] * 4
    assert recall_at(gold, gold, 0.95) == 1


def test_highlights():
    gold = [[0, 0, 0], [2, 4, 1], [4, 4, 4], [1, 0, 4]]
    assert hit_at_1([0.1, 0.9, 0.2, 0.3], gold) == 1, "one annotator suffices"
    assert hit_at_1([0.9, 0.9, 0.2, 0.3], gold) == 0, "of equal scores, the first clip counts"
    assert hit_at_1([0, 0, 0, 0, 1], gold) == hit_at_1([], gold) == 0
    assert hit_at_1([0, 1, 0, 0], [[0], [2], [0], [0]], minimum=2) == 1
    # Annotator 1: clip 2 alone. Annotator 2: clips 1 and 2. Annotator 3: clips 2 and 3.
    assert saliency_average_precision([0, 3, 2, 1], gold) == pytest.approx((1 / 2 + 1 + (2 / 3 + 2 / 3) / 2) / 3)
    best = [[sum(clip) for clip in gold], [0, 1, 2, 1]]
    assert [saliency_average_precision(scores, [[n] for n in scores], minimum=max(scores)) for scores in best] == [1, 1]
    assert saliency_average_precision([1, 1], gold) == saliency_average_precision([1, 1, 0, 0, 9], gold)
    assert saliency_average_precision([1, 2], [[4], [4]]) == 1
    assert saliency_average_precision([1, 2], [[0], [0]]) == 0


def test_clips_are_scored_by_the_first_span_with_their_middle():
    assert clip_scores([(4.0, 8.0), (0.0, 6.0)], 5) == [0.5, 0.5, 1.0, 1.0, 0.0]
    assert clip_scores([], 2) == [0.0, 0.0]
