"""The benchmark of a user's own rows: every kind of row, and mistakes by name."""

import pytest

from tests.questions import write_rows
from tests.runs import turns
from tinyvid import ConfigError, DataError, build_benchmark
from tinyvid.evaluation.scoring.scores import read


def test_custom_reads_every_kind_of_row(tmp_path):
    rows = [
        {"id": "choice", "conversations": turns("Which?"), "options": ["x", "y", "N/A"], "answer_index": 1, "group": 7},
        {"id": "open", "conversations": turns("What?", "A dog.")},
        {"id": "stated", "conversations": turns("How many?"), "answer": 3, "rule": "number"},
        {"id": "label", "conversations": turns("Class?", "Arson"), "options": ["Arson", "Fight"], "rule": "label"},
        {"conversations": turns("No id?", "None.")},
        {"id": "several", "conversations": turns("Who?"), "answer": ["a dog", "the puppy"], "answer_index": None},
    ]
    benchmark = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows)), "rule": "contains"})
    items = {item.id: item for item in (benchmark[i] for i in range(len(benchmark)))}
    assert items["choice"].options == {"A": "x", "B": "y"}
    assert (items["choice"].answer, items["choice"].question, items["choice"].groups) == ("B", "Which?", {"group": "7"})
    assert items["choice"].sample.messages[-1].text.startswith("Which?\nA. x\nB. y\nC. N/A\nAnswer with")
    assert (items["open"].rule, items["open"].answer) == ("contains", "A dog.")
    assert (items["stated"].rule, items["stated"].answer) == ("number", "3")
    assert (items["several"].answer, items["several"].alternatives) == ("a dog", ("the puppy",))
    assert (items["label"].rule, items["label"].answer) == ("label", "Arson")
    assert "rows.jsonl:5" in items
    assert all(item.sample.messages[-1].role == "user" for item in items.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"root": "nowhere"}, DataError, r"benchmark.root='nowhere' lacks 1 of 1 files: rows.jsonl \(there is no such"),
        (
            {"file": "other.jsonl"},
            DataError,
            r"lacks 1 of 1 files: other.jsonl \(it contains .*rows.*get them from you",
        ),
        ({"prompt_style": "offical"}, ConfigError, r"prompt_style='offical' is not allowed. Did you mean 'official'\?"),
        ({"rule": "judged"}, ConfigError, r"rule='judged' is not allowed. Did you mean 'judge'\?"),
        ({"style": "official"}, ConfigError, "has no option 'style'"),
        ({"name": "custum"}, ConfigError, r"unknown benchmark 'custum'. Did you mean 'custom'\?"),
        ({"root": "???"}, ConfigError, "benchmark 'custom' needs benchmark.root"),
    ],
)
def test_a_mistake_in_a_benchmark_is_named(questions, options, error, message):
    with pytest.raises(error, match=message):
        build_benchmark({"name": "custom", "root": str(questions), **options})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "conversations": turns("Q?")}], "rows.jsonl:1: the row has no answer"),
        ([{"id": "a", "conversations": turns("Q?", "A")}] * 2, r"several rows have the ids \['a'\]"),
        ([{"id": "a", "conversations": turns("Q?", "A"), "rule": "guess"}], "rows.jsonl:1: .*rule 'guess' is unknown"),
        ([{"id": "a", "conversations": turns("Q?"), "answer_index": 0}], "rows.jsonl:1: .*without 'options'"),
        ([{"conversations": turns("Q?", "A"), "video": "../a.mp4"}], "leaves the media folder"),
        (
            [{"conversations": turns("Q?", "A"), "Video": "b.mp4"}],
            "rows.jsonl:1: 'Video' is not read",
        ),
        ([{"conversations": turns("Q?", "")}], "rows.jsonl:1: a reply is empty"),
        *[
            ([{"conversations": turns("Q?"), "answer": answer}], "rows.jsonl:1: 'answer' must be a text, a number or a")
            for answer in (True, "", [], [None], {"a": 1})
        ],
        *[
            ([{"conversations": turns("Q?"), "answer": answer, "rule": rule}], "no reply can match the answer")
            for answer, rule in [
                ("several", "number"),
                ("maybe", "yes_no"),
                ("...", "exact"),
                ([3, "many"], "number"),
            ]
        ],
        *[
            ([{"conversations": turns("When?"), "answer": answer, "rule": rule}], f"rows.jsonl:1: .*{message}")
            for answer, rule, message in [
                ("in the end", "span", "has no span; write it as '<time:2.4> to <time:9.0>'"),
                ("<time:9> to <time:2>", "span", "has no span"),
                ("<time:1> to <time:2>\n<time:9> to <time:3>", "spans", "has 4 markers of times, but 1 readable spans"),
                (["<time:1> to <time:2> A.", "<time:1> to <time:2>"], "events", "has spans without a sentence"),
            ]
        ],
        ([{"conversations": turns("Q?", "A"), "answer_index": "B", "options": ["a", "b"]}], "'answer_index' must be a"),
        ([{"conversations": turns("Q?"), "answer_index": 1, "options": ["a", "N/A", "b"]}], "stands for no option"),
        ([{"conversations": turns("Q?"), "answer_index": 0, "options": ["a", "N/A"]}], "needs at least 2 options"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})


@pytest.mark.parametrize(
    ("rule", "answer", "replies"),
    [
        ("exact", ["a dog", "puppy"], {"The dog.": 1.0, "Puppy": 1.0, "a cat": 0.0}),
        ("contains", ["dog", "puppy"], {"It is a puppy": 1.0, "a cat": 0.0}),
        ("number", [3, "5"], {"5": 1.0, "3": 1.0, "100": 0.0}),
        ("exact", 2, {"2": 1.0}),
    ],
)
def test_a_list_of_answers_means_alternatives(tmp_path, rule, answer, replies):
    rows = [{"conversations": turns("What?"), "answer": answer, "rule": rule}]
    (item,) = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})
    assert {reply: read(item, reply).value for reply in replies} == replies


def test_answers_in_seconds(tmp_path):
    rows = [
        {"id": "a", "conversations": turns("When?", "From <time:2.4> to <time:9>."), "rule": "span"},
        {"id": "b", "conversations": turns("When?"), "rule": "spans", "answer": "[[2.4, 9], [12, 15]]"},
        {"id": "c", "conversations": turns("What?"), "rule": "events", "answer": "2.4 - 9 s, a man.\n9 - 15 s, a dog."},
        {"id": "d", "conversations": turns("When?"), "rule": "span", "answer": ["0:02 to 0:04", "0:08 to 0:10"]},
    ]
    benchmark = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})
    values = [read(item, reply).value for item, reply in zip(benchmark, ["2.4 - 9 s"] * 3 + ["8 - 10 s"], strict=True)]
    assert values == [1.0, 0.5, pytest.approx(2 / 3), 1.0]


def test_media_keep_their_places_in_brackets(tmp_path):
    rows = [{"images": ["1", "2"], "conversations": turns("<image> or <image>?"), "answer_index": 0}]
    rows[0]["options"] = ["(A) x", "(B) y"]
    (item,) = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows)), "prompt_style": "bracketed"})
    message = item.sample.messages[-1]
    assert message.text.startswith("Question:  or ?\nOptions:\n(A) x\n(B) y\n")
    assert message.places == (10, 14)


def test_the_reply_of_a_row_with_key_frames_is_a_trace_that_ends_with_the_answer(tmp_path):
    trace = "In <frame:1.5> a dog runs. Answer: a dog"
    rows = [
        {"id": "a", "video": "a.mp4", "conversations": turns("Who?", trace), "key_frames": [1.5]},
        {"id": "b", "video": "a.mp4", "conversations": turns("Who?", trace)},
    ]
    with_frames, without = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})
    assert (with_frames.answer, without.answer) == ("a dog", trace)
    rows[0]["key_frames"] = "1.5"
    with pytest.raises(DataError, match=r"rows.jsonl:1: item 'a': key_frames='1.5' must be a list of times"):
        build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})
