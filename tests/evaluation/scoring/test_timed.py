"""The timed rules: span, spans and events."""

import pytest
from hypothesis import given, settings, strategies as st

from tinyvid import DataError, Item, Message, Outcome, Sample
from tinyvid.evaluation.scoring.scores import check_answers, read, rescore
from tinyvid.evaluation.scoring.timed import timed_averages

SAMPLE = Sample([Message("user", "When?")])
SPAN = "<time:2> to <time:12>"
SPANS = "<time:2> to <time:12>\n<time:20> to <time:30>"
EVENTS = "<time:2> to <time:12> A man lights the stove.\n<time:20> to <time:30> He cooks two eggs."


def item(rule, answer, *others, id="x"):
    return Item(id, SAMPLE, rule=rule, answer=answer, alternatives=others)


def answered(items, replies):
    return [
        rescore(one, Outcome(one.id, "answered", None, reply=reply)) for one, reply in zip(items, replies, strict=True)
    ]


@pytest.mark.parametrize(
    ("rule", "answer", "reply", "prediction", "value"),
    [
        ("span", SPAN, "From 2 to 12 seconds.", SPAN, 1.0),
        ("span", SPAN, "From <time:7> to <time:17>.", "<time:7> to <time:17>", 1 / 3),
        ("span", SPAN, "2 - 12 s or 50 - 60 s", SPAN, 1.0),  # the first one counts
        ("span", SPAN, "50 - 60 s? No. The answer is 2 - 12 s, maybe 3 - 4 s.", SPAN, 1.0),  # after the statement
        ("span", SPAN, "Answer: 2 - 12 s. The answer is clear.", SPAN, 1.0),
        ("span", SPAN, "<think>50 - 60 s</think> 2 - 12 s", SPAN, 1.0),
        ("span", SPAN, "50 - 60 s <answer>[2, 12]</answer>", SPAN, 1.0),
        ("span", SPAN, r"\boxed{2 - 12}", SPAN, 1.0),
        ("span", SPAN, "<think>2 - 12 s", None, 0.0),
        ("span", SPAN, "12 to 2 seconds", None, 0.0),
        ("span", SPAN, "in the beginning", None, 0.0),
        ("span", SPAN, "", None, 0.0),
        ("spans", SPANS, "[[2, 12], [20, 30]]", SPANS, 1.0),
        ("spans", SPANS, "[[50, 60], [2, 12]]", "<time:50> to <time:60>\n<time:2> to <time:12>", 0.25),
        ("spans", SPANS, "nowhere", None, 0.0),
        ("events", EVENTS, "2 - 12 s, A man lights the stove. 20 - 30 s, He cooks two eggs.", EVENTS, 1.0),
        ("events", EVENTS, "2 - 12 s, a dog", "<time:2> to <time:12> a dog", 2 / 3),
        ("events", EVENTS, "A man lights the stove.", None, 0.0),
    ],
)
def test_replies_are_scored(rule, answer, reply, prediction, value):
    reading = read(item(rule, answer), reply)
    assert reading.prediction == prediction
    assert reading.value == pytest.approx(value)
    assert reading.exact == (value == 1.0), "whether the spans are those of the answer"


@pytest.mark.parametrize(("rule", "answer"), [("span", SPAN), ("spans", SPANS), ("events", EVENTS)])
def test_an_answer_as_the_reply_has_the_value_1(rule, answer):
    check_answers(item(rule, answer))
    assert read(item(rule, answer), answer).value == 1.0
    assert read(item(rule, "<time:60> to <time:70> Else.", answer), answer).value == 1.0, "any of several answers"
    assert read(item(rule, None), answer).value is None
    (outcome,) = answered([item(rule, answer)], ["no idea"])
    assert (outcome.status, outcome.value, outcome.prediction) == ("unparsed", 0.0, None)


def test_a_prediction_is_read_as_it_was_written():
    for rule, answer in [("span", SPAN), ("spans", SPANS), ("events", EVENTS)]:
        (outcome,) = answered([item(rule, answer)], [f"It is this:\n{answer}"])
        assert read(item(rule, answer), outcome.prediction).prediction == outcome.prediction == answer


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["span", "spans", "events"])
def test_a_long_repetitive_reply_is_read(rule):
    reply = "From 2 to 12 seconds, a man. Then 20 to 30 seconds, an answer is: " * 2000
    value = read(item(rule, {"span": SPAN, "spans": SPANS, "events": EVENTS}[rule]), reply).value
    # The last statement has no spans after it, so the one before it counts.
    assert value == {"span": 1.0, "spans": 1.0, "events": 1.0}[rule]


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789.:-to<ime>[],\n answer"), max_size=60))
def test_no_reply_raises(reply):
    for rule, answer in [("span", SPAN), ("spans", SPANS), ("events", EVENTS)]:
        reading = read(item(rule, answer), reply)
        assert 0.0 <= reading.value <= 1.0
        assert reading.prediction is not None or reading.value == 0.0


@pytest.mark.parametrize(
    ("rule", "answer", "message"),
    [
        ("span", "in the beginning", "item 'x': the answer 'in the beginning' has no span; write it as '<time:2.4>"),
        ("span", "<time:9> to <time:2>", "has no span"),
        ("span", "20% to 40%", "has no span"),
        ("span", SPANS, "has 2 spans; rule 'span' needs one"),
        ("span", "<time:2>, <time:5> to <time:9>", "has 3 markers of times, but 1 readable spans"),
        ("spans", "<time:1> to <time:2>\n<time:9> to <time:3>", "has 4 markers of times, but 1 readable spans"),
        ("spans", "<time:1> to <time:nan>", "has no span"),
        ("spans", "[[1, 2], [9, 3]]", "has a span that ends before it starts"),
        ("events", "<time:1> to <time:2> A man.\n<time:3> to <time:4>", "has spans without a sentence"),
        ("events", "A man.", "has no span"),
    ],
)
def test_a_malformed_answer_is_refused(rule, answer, message):
    with pytest.raises(DataError, match=message):
        check_answers(item(rule, answer))
    with pytest.raises(DataError, match=message):
        check_answers(item(rule, "<time:0> to <time:1> A.", answer))


def test_averages_of_gold_are_100():
    items = [item("span", SPAN), item("spans", SPANS, id="y"), item("events", EVENTS, id="z")]
    averages = timed_averages(items, answered(items, [SPAN, SPANS, EVENTS]))
    assert averages == pytest.approx({
        "mIoU": 100, "R@0.3": 100, "R@0.5": 100, "R@0.7": 100,
        "mAP": 100, "mAP@0.5": 100, "mAP@0.75": 100, "R1@0.5": 100, "R1@0.7": 100,
        "F1": 100, "Precision": 100, "Recall": 100, "F1@0.3": 100, "F1@0.5": 100, "F1@0.7": 100, "F1@0.9": 100,
        "CIDEr-D": 1000, "SODA (F1 of words)": 100,
    })  # fmt: skip


def test_averages_by_hand():
    items = [item("span", SPAN, id="a"), item("span", SPAN, id="b"), item("span", SPAN, id="c")]
    outcomes = answered(items, ["2 to 12 s", "2 to 8 s", "no idea"])
    assert timed_averages(items, outcomes) == pytest.approx(
        {"mIoU": 160 / 3, "R@0.3": 200 / 3, "R@0.5": 200 / 3, "R@0.7": 100 / 3}
    ), "IoU 1.0, 0.6 and 0"
    items = [item("spans", SPANS, id="a"), item("spans", SPANS, id="b")]
    averages = timed_averages(items, answered(items, ["[50, 60], [2, 12]", "[2, 8]"]))
    assert averages == pytest.approx(
        {"mAP": 100 * (0.25 + 0.5 * 3 / 10) / 2, "mAP@0.5": 37.5, "mAP@0.75": 12.5, "R1@0.5": 50, "R1@0.7": 0}
    )
    items = [item("events", EVENTS, "<time:2> to <time:12> A man lights the stove."), item("events", EVENTS, id="y")]
    averages = timed_averages(items, answered(items, ["<time:2> to <time:12> A man lights the stove.", "no idea"]))
    expected = {"F1": 50, "Precision": 50, "Recall": 50, "F1@0.9": 50, "SODA (F1 of words)": 100 * 2 * 1 / (1 + 3)}
    assert {name: averages[name] for name in expected} == pytest.approx(expected), "the answer with the best value"


def test_items_without_an_answer_and_other_rules_do_not_count():
    items = [item("span", None), item("exact", "dog", id="y"), item("span", SPAN, id="z")]
    outcomes = answered(items, [SPAN, "dog", SPAN])
    assert timed_averages(items, outcomes)["mIoU"] == 100
    assert timed_averages(items[:2], outcomes[:2]) == {}
    failed = rescore(items[2], Outcome("z", "media_failed", 0.0))
    assert timed_averages(items[2:], [failed]) == {"mIoU": 0, "R@0.3": 0, "R@0.5": 0, "R@0.7": 0}
