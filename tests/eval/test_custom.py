"""The benchmark of a user's own rows: every kind of row, and mistakes by name."""

import pytest

from tests.questions import write_rows
from tests.runs import turns
from tinyvid import ConfigError, DataError, build_benchmark


def test_custom_reads_every_kind_of_row(tmp_path):
    rows = [
        {"id": "choice", "conversations": turns("Which?"), "options": ["x", "y", "N/A"], "answer_index": 1, "group": 7},
        {"id": "open", "conversations": turns("What?", "A dog.")},
        {"id": "stated", "conversations": turns("How many?"), "answer": 3, "rule": "number"},
        {"id": "label", "conversations": turns("Class?", "Arson"), "options": ["Arson", "Fight"], "rule": "label"},
        {"conversations": turns("No id?", "None.")},
    ]
    benchmark = build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows)), "rule": "contains"})
    items = {item.id: item for item in (benchmark[i] for i in range(len(benchmark)))}
    assert items["choice"].options == {"A": "x", "B": "y"}
    assert (items["choice"].answer, items["choice"].question, items["choice"].groups) == ("B", "Which?", {"group": "7"})
    assert items["choice"].sample.messages[-1].text.startswith("Which?\nA. x\nB. y\nC. N/A\nAnswer with")
    assert (items["open"].rule, items["open"].answer) == ("contains", "A dog.")
    assert (items["stated"].rule, items["stated"].answer) == ("number", "3")
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
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        build_benchmark({"name": "custom", "root": str(write_rows(tmp_path, rows))})
