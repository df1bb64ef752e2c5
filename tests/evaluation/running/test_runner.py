"""Running a benchmark in one process: prompts, sharing, counts, errors and reports."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import write_clip
from tests.factories import tiny_assistant
from tests.questions import read_rows
from tests.runs import owner_of
from tinyvid import (
    ConfigError,
    DataError,
    EvaluationOptions,
    Item,
    Message,
    Report,
    Sample,
    Video,
    build_benchmark,
    evaluate,
)
from tinyvid.caches import FeatureCache, tower_key
from tinyvid.evaluation.judging.judges import ExactJudge
from tinyvid.evaluation.running.answering import Answer, outcome_of
from tinyvid.evaluation.running.record import digest_items
from tinyvid.evaluation.running.units import VideoGroup, plan_units
from tinyvid.generation.decode import Decoding, replies
from tinyvid.processing.batch import Example, VideoInput
from tinyvid.text.moments import Moments

SHORT = EvaluationOptions(max_new_tokens=4, workers=0)


@pytest.fixture(scope="module")
def benchmark(questions):
    return build_benchmark({"name": "custom", "root": str(questions)})


class Fixed:
    """A benchmark of given items."""

    name, prompt_style, source = "fixed", "official", "a test"

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def summary(self, outcomes):
        return {"answered": sum(outcome.status == "answered" for outcome in outcomes)}


def ask(text, video=None, **options):
    return Item(
        text, Sample([Message("user", text)], video=video, id=text), **{"rule": "exact", "answer": "x", **options}
    )


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replies_are_those_of_the_assistant(assistant, benchmark, tmp_path):
    report = evaluate(assistant, benchmark, run_dir=tmp_path / "run", options=SHORT)
    rows = read_rows(tmp_path / "run")
    assert [row["id"] for row in rows] == [benchmark[i].id for i in range(len(benchmark))]
    for i, row in enumerate(rows):
        assert row["reply"] == assistant.answer([benchmark[i].sample], max_new_tokens=4)[0]
    assert report.data["n_total"] == len(benchmark) == 10
    assert report.data["n_answered"] + report.data["n_unparsed"] == 10
    assert rows[0]["num_frames"] == 4
    assert rows[0]["duration"] == pytest.approx(0.48)


@pytest.mark.slow
def test_every_video_is_decoded_and_encoded_once(assistant, benchmark, tmp_path, monkeypatch):
    frames, reads = [], []
    encode, read = type(assistant.model.vision_tower).forward, type(assistant.processor.reader).read

    def counted(tower, pixels):
        frames.append(len(pixels))
        return encode(tower, pixels)

    def counted_read(reader, path, indices):
        reads.append(path)
        return read(reader, path, indices)

    monkeypatch.setattr(type(assistant.model.vision_tower), "forward", counted)
    monkeypatch.setattr(type(assistant.processor.reader), "read", counted_read)
    evaluate(assistant, benchmark, run_dir=tmp_path, options=replace(SHORT, batch_size=4, workers=2))
    assert sum(frames) == 3 * 4, "three clips of four frames, nine questions"
    assert len(reads) == len(set(reads)) == 3


@pytest.mark.slow
def test_a_connector_without_the_question_runs_once_per_video(assistant, benchmark, tmp_path, monkeypatch):
    calls = []
    forward = type(assistant.model.connector).forward
    monkeypatch.setattr(
        type(assistant.model.connector), "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k)
    )
    evaluate(assistant, benchmark, run_dir=tmp_path, options=replace(SHORT, batch_size=10))
    assert len(calls) == 3


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_batch_size_does_not_change_replies(assistant, benchmark, tmp_path, batch_size):
    evaluate(assistant, benchmark, run_dir=tmp_path / "a", options=replace(SHORT, batch_size=batch_size))
    evaluate(assistant, benchmark, run_dir=tmp_path / "b", options=replace(SHORT, batch_size=4, workers=3))
    assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")


def test_units_contain_whole_videos():
    items = [ask(f"{video}{i}", video) for video, n in (("a", 3), ("b", 2), ("c", 5), ("d", 1)) for i in range(n)]
    items += [ask("text 1"), ask("text 2"), ask("late", "a"), ask("cut", Video("a", start=1))]
    units = plan_units(items, 4)
    assert units == [
        ((0, 1, 2, 13),),
        ((3, 4),),
        ((5, 6, 7, 8, 9),),
        ((10,), (11,), (12,), (14,)),
    ]


def test_a_limit_is_spread_over_the_benchmark(assistant, tmp_path):
    items = [ask(str(i)) for i in range(10)]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path, options=replace(SHORT, limit=4))
    assert [row["id"] for row in read_rows(tmp_path)] == ["0", "2", "5", "7"]
    assert (report.data["n_total"], report.data["n_of_benchmark"]) == (4, 10)


def test_the_reply_begins_with_the_prefix(assistant, questions, tmp_path):
    benchmark = build_benchmark({"name": "custom", "root": str(questions), "prompt_style": "bracketed"})
    item = benchmark[1]
    assert item.sample.messages[-1].text == (
        "Question: Which animal is number 1?\nOptions:\n(A) a cat\n(B) a dog\n(C) a cow\nOnly give the best option."
    )
    assert item.prefix == "Best option:("
    evaluate(assistant, Fixed([item]), run_dir=tmp_path, options=SHORT)
    reply = read_rows(tmp_path)[0]["reply"]
    processor, model = assistant.processor, assistant.model
    example = processor(item.sample)
    begun = processor.tokenizer(" Best option:(", add_special_tokens=False).input_ids
    ids = torch.cat([example.input_ids, torch.tensor(begun)])
    mask = torch.cat([example.video_mask, torch.zeros(len(begun), dtype=torch.bool)])
    batch = processor.collate([replace(example, input_ids=ids, labels=ids, video_mask=mask)], padding_side="left")
    assert [reply] == replies(model, processor, batch, Decoding(4))


@pytest.mark.slow
def test_prompts_may_depend_on_the_selected_frames(assistant, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=50, fps=25)

    class Timed(Fixed):
        def sample(self, item, times):
            text = f"Frames at {[round(time, 2) for time in times]}. {item.id}"
            return replace(item.sample, messages=[Message("user", text)])

    asked = [ask("whole", clip), ask("cut", Video(clip, start=1.0))]
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(1, 7):
        Image.new("RGB", (20, 20)).save(frames / f"{number:05d}.jpg")
    asked.append(ask("folder", Video(frames, fps=3, start=0.5)))
    evaluate(assistant, Timed(asked), run_dir=tmp_path / "run", options=SHORT)
    texts = [
        "Frames at [0.0, 0.64, 1.28, 1.96]. whole",
        "Frames at [1.0, 1.32, 1.64, 1.96]. cut",
        "Frames at [0.67, 1.0, 1.33, 1.67]. folder",
    ]
    for row, text, item in zip(read_rows(tmp_path / "run"), texts, asked, strict=True):
        sample = replace(item.sample, messages=[Message("user", text)])
        assert row["reply"] == assistant.answer([sample], max_new_tokens=4)[0]


@pytest.mark.slow
def test_features_of_a_cache_give_the_same_replies(assistant, benchmark, tmp_path):
    evaluate(assistant, benchmark, run_dir=tmp_path / "without", options=SHORT)
    assistant.model.vision_tower.requires_grad_(False)
    key = tower_key(assistant.model.vision_tower, assistant.config["vision_tower"])
    assistant.processor.features = FeatureCache(tmp_path / "cache", max_gib=1, tower_key=key)
    for run in ("filling", "reading"):
        evaluate(assistant, benchmark, run_dir=tmp_path / run, options=SHORT)
        assert read_rows(tmp_path / run) == read_rows(tmp_path / "without")
    assert assistant.processor.features.store.statistics.hits == 3


# --- likelihood -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_prob(assistant, sample, text):
    """Return the mean log-probability of a reply's tokens, without its end marker, from a separate pass."""
    answered = replace(sample, messages=[*sample.messages, Message("assistant", text)])
    example = assistant.processor(answered)
    output = assistant.model(assistant.processor.collate([example]))
    ids = example.labels[example.labels != -100]
    scores = output.logits.log_softmax(-1)[torch.arange(len(ids)), ids]
    return float(scores[:-1].mean())  # the end marker is one token


@pytest.mark.slow
@pytest.mark.parametrize("style", ["official", "bracketed"])
def test_likelihoods_of_letters_are_those_of_one_pass_each(assistant, questions, tmp_path, style):
    benchmark = build_benchmark({"name": "custom", "root": str(questions), "prompt_style": style})
    report = evaluate(assistant, benchmark, run_dir=tmp_path, options=replace(SHORT, score="likelihood"))
    rows = read_rows(tmp_path)
    for i, row in enumerate(rows[:-1]):
        item = benchmark[i]
        expected = {key: log_prob(assistant, item.sample, item.prefix + key) for key in item.options}
        assert row["likelihoods"] == pytest.approx(expected, abs=1e-4)
        assert row["prediction"] == max(expected, key=expected.get)
    assert rows[-1]["reply"], "an item without options is asked to reply"
    assert report.data["settings"]["score"] == "likelihood"


def test_likelihoods_of_labels_count_all_of_their_tokens(assistant, tmp_path):
    options = {name: name for name in ("Normal Video", "Road Accident", "Arson")}
    item = ask("What?", rule="label", answer="Arson", options=options)
    evaluate(assistant, Fixed([item]), run_dir=tmp_path, options=replace(SHORT, score="likelihood", batch_size=2))
    expected = {name: log_prob(assistant, item.sample, name) for name in options}
    assert read_rows(tmp_path)[0]["likelihoods"] == pytest.approx(expected, abs=1e-4)


def test_options_with_times_are_compared_in_the_words_of_the_model(assistant, tmp_path):
    options = {"a": "at <time:1>", "b": "from <time:0> to <time:2>"}
    item = ask("When?", np.zeros((4, 30, 40, 3), np.uint8), rule="label", options=options, answer="a", prefix="It is ")
    evaluate(assistant, Fixed([item]), run_dir=tmp_path, options=replace(SHORT, score="likelihood"))
    words = {"a": "at 1.0 s", "b": "from 0.0 s to 2.0 s"}
    expected = {key: log_prob(assistant, item.sample, item.prefix + text) for key, text in words.items()}
    assert read_rows(tmp_path)[0]["likelihoods"] == pytest.approx(expected, abs=1e-4)


# --- what fails -------------------------------------------------------------------------------------------------------


def test_unreadable_videos_count_as_wrong_and_are_listed(assistant, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=10)
    (tmp_path / "bad.mp4").write_bytes(b"no video, but long enough to look at it closely")
    items = [ask("fine", clip), ask("bad", tmp_path / "bad.mp4"), ask("late", Video(clip, start=9.0))]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT)
    data = report.data
    assert (data["n_total"], data["n_media_failed"], data["n_answered"]) == (3, 2, 1)
    assert (data["accuracy"]["all"]["n"], data["accuracy"]["decodable"]["n"]) == (3, 1)
    assert [entry["id"] for entry in data["media_failed"]] == ["bad", "late"]
    assert "start=9 s is past the end" in data["media_failed"][1]["reason"]
    text = (tmp_path / "run" / "report.md").read_text()
    assert "media failed (counted wrong): 2" in text
    assert "| bad |" in text


def test_missing_videos_are_listed_before_anything_is_asked(assistant, tmp_path):
    items = [ask("here", write_clip(tmp_path / "clip.mp4", num_frames=5))]
    items += [ask(f"gone {i}", tmp_path / f"gone_{i}.mp4") for i in range(12)]
    message = r"12 videos of benchmark 'fixed' are missing: .*gone_0.mp4.* and 4 more; get them from a test"
    with pytest.raises(DataError, match=message):
        evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT)
    assert not (tmp_path / "run").exists()
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=replace(SHORT, missing="count"))
    assert (report.data["n_total"], report.data["n_media_failed"]) == (13, 12)


def test_failed_media_are_retried(assistant, tmp_path):
    items = [ask("a", tmp_path / "a.mp4"), ask("b", write_clip(tmp_path / "b.mp4", num_frames=5))]
    options = replace(SHORT, missing="count")
    assert evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=options).data["n_media_failed"] == 1
    write_clip(tmp_path / "a.mp4", num_frames=5)
    assert evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=options).data["n_media_failed"] == 0
    assert [row["id"] for row in read_rows(tmp_path / "run")] == ["a", "b"]


def test_an_item_that_is_too_long_counts_as_wrong_and_is_retried(assistant, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=10)
    items = [ask("a", clip), ask("word " * 1000, clip), ask("b", clip)]
    data = evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT).data
    assert (data["n_total"], data["n_prompt_failed"], data["n_answered"]) == (3, 1, 2)
    assert data["accuracy"]["all"]["n"] == 3
    assert "exceed the limit llm.max_length" in data["prompt_failed"][0]["reason"]
    assert "prompt failed (counted wrong): 1" in (tmp_path / "run" / "report.md").read_text()
    assistant.processor.max_length = 20_000
    assert evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT).data["n_prompt_failed"] == 0


def test_a_benchmark_whose_items_are_all_too_long_stops_the_run(assistant, tmp_path):
    with pytest.raises(DataError, match="no item of benchmark 'fixed' can be asked: sample 'word word.*exceed the l"):
        evaluate(assistant, Fixed([ask("word " * 2000)]), run_dir=tmp_path, options=SHORT)


def test_a_folder_in_use_is_refused(assistant, tmp_path):
    with owner_of(tmp_path) as owner, pytest.raises(ConfigError, match=rf"run_dir=.* is used by process {owner} on"):
        evaluate(assistant, Fixed([ask("a")]), run_dir=tmp_path, options=SHORT)
    assert evaluate(assistant, Fixed([ask("a")]), run_dir=tmp_path, options=SHORT).data["n_total"] == 1


def test_errors_are_raised_before_the_model_is_asked(assistant, tmp_path):
    with pytest.raises(DataError, match="benchmark 'fixed' has no items"):
        evaluate(assistant, Fixed([]), run_dir=tmp_path / "run", options=SHORT)
    with pytest.raises(DataError, match="two items of benchmark 'fixed' have the id 'a'"):
        evaluate(assistant, Fixed([ask("a"), ask("a")]), run_dir=tmp_path / "run", options=SHORT)
    judged = Fixed([ask("a", rule="judge")])
    with pytest.raises(ConfigError, match="has open answers that need a judge; choose judge=local"):
        evaluate(assistant, judged, run_dir=tmp_path / "run", options=SHORT)
    misnamed = Fixed([ask("a", rule="judge", rubric="qas")])
    with pytest.raises(ConfigError, match="rubric 'qas' is unknown. Did you mean 'qa'"):
        evaluate(assistant, misnamed, run_dir=tmp_path / "run", options=SHORT, judge=ExactJudge())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="is not a run: it contains thesis.txt"):
        evaluate(assistant, Fixed([ask("a")]), run_dir=tmp_path / "other", options=SHORT)


def test_a_sampled_run_continues_only_with_the_same_settings(assistant, tmp_path):
    items = Fixed([ask("a"), ask("b")])
    sampled = replace(SHORT, temperature=1.5, top_p=0.9, seed=3)
    report = evaluate(assistant, items, run_dir=tmp_path, options=sampled)
    assert {"temperature": 1.5, "top_p": 0.9, "seed": 3}.items() <= report.data["settings"].items()
    evaluate(assistant, items, run_dir=tmp_path / "singly", options=replace(sampled, batch_size=1))
    replies_of = [[row["reply"] for row in read_rows(folder)] for folder in (tmp_path, tmp_path / "singly")]
    assert replies_of[0] == replies_of[1]
    assert evaluate(assistant, items, run_dir=tmp_path, options=sampled).data["settings"] == report.data["settings"]
    with pytest.raises(ConfigError, match="cannot be continued: seed: 3 -> 4"):
        evaluate(assistant, items, run_dir=tmp_path, options=replace(sampled, seed=4))
    with pytest.raises(ConfigError, match="top_p=2 must be a number above 0"):
        evaluate(assistant, items, run_dir=tmp_path / "new", options=replace(sampled, top_p=2))


def test_a_folder_of_another_run_is_refused(assistant, models, tmp_path):
    items = [ask("a"), ask("b")]
    evaluate(assistant, Fixed(items), run_dir=tmp_path, options=SHORT)
    for changed, key in (
        ((assistant, Fixed(items[:1]), SHORT), "questions"),
        ((assistant, Fixed(items), replace(SHORT, max_new_tokens=5)), "max_new_tokens: 4 -> 5"),
        ((assistant, Fixed(items), replace(SHORT, temperature=0.5)), "seed: None -> 0, temperature: None -> 0.5"),
        ((assistant, Fixed([items[0], replace(items[1], answer="y")]), SHORT), "questions"),
    ):
        other, benchmark, options = changed
        with pytest.raises(ConfigError, match=f"contains a run with other settings.*{key}"):
            evaluate(other, benchmark, run_dir=tmp_path, options=options)
    pooled = tiny_assistant(models)
    pooled.config["reducer"] = {"name": "drop"}  # has no weights
    with pytest.raises(ConfigError, match=r"cannot be continued: reducer: None -> \{'name': 'drop'\}"):
        evaluate(pooled, Fixed(items), run_dir=tmp_path, options=SHORT)
    torch.manual_seed(1)
    trained = tiny_assistant(models)
    with torch.no_grad():
        next(trained.model.connector.parameters()).add_(0.01)
    with pytest.raises(ConfigError, match="weights"):
        evaluate(trained, Fixed(items), run_dir=tmp_path, options=SHORT)
    evaluate(assistant, Fixed(items), run_dir=tmp_path, options=replace(SHORT, batch_size=1, workers=1))


def test_other_videos_are_another_run():
    digests = [digest_items([ask("a", Video(path))]) for path in ("here/a.mp4", "there/a.mp4", "here/b.mp4")]
    assert digests[0] == digests[1] != digests[2]


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_contains_the_settings(assistant, benchmark, tmp_path):
    settings = {"ckpt": "mine"}
    report = evaluate(assistant, benchmark, run_dir=tmp_path, options=SHORT, settings=settings)
    data = report.data
    assert data["settings"]["sampler"] == {"name": "uniform", "num_frames": 4, "unique": False}
    assert data["settings"]["reader"] == assistant.processor.reader.name
    assert data["settings"]["ckpt"] == "mine"
    assert (data["prompt_style"], data["settings"]["score"]) == ("official", "reply")
    assert data["versions"].keys() >= {"tinyvid", "torch", "transformers", "python"}
    assert data["first_prompt"][0][1].startswith("Which animal is number 0?\nA. a cat")
    assert set(data["groups"]["group"]) == {"clip 0", "clip 1", "clip 2", "text"}
    assert data["groups"]["group"]["clip 0"]["n"] == 3
    assert data["official"].keys() == {"mean over group"}
    assert data["chance"] is None, "one item has no options"
    assert {"groups_group.png", "duration.png", "report.md"} <= {path.name for path in tmp_path.iterdir()}
    assert report.metrics().keys() == {
        f"custom {name}" for name in ("accuracy", "unparsed", "media_failed", "mean over group")
    }
    assert json.loads((tmp_path / "report.json").read_text()) == data


def test_a_task_of_labels_has_a_confusion_matrix(assistant, tmp_path):
    options = {"Arson": "Arson", "Fight": "Fight"}
    items = [ask(f"q{i}", rule="label", answer=a, options=options) for i, a in enumerate(["Arson", "Arson", "Fight"])]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path, options=replace(SHORT, score="likelihood"))
    confusion = report.data["confusion"]
    assert confusion["columns"] == ["Arson", "Fight", "(unparsed)"]
    assert [sum(row) for row in confusion["counts"]] == [2, 1]
    assert report.data["groups"]["answer"]["Arson"]["n"] == 2
    assert (report.data["chance"], report.data["majority"]) == (0.5, 2 / 3)
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_a_benchmark_without_public_answers_has_files_but_no_accuracy(assistant, tmp_path):
    class Submitted(Fixed):
        def files(self, outcomes):
            return {"submission.json": json.dumps({outcome.id: outcome.prediction for outcome in outcomes})}

    options = {"A": "x", "B": "y"}
    items = [
        ask("a", rule="choice", answer=None, options=options),
        ask("b", rule="choice", answer=None, options=options),
    ]
    report = evaluate(assistant, Submitted(items), run_dir=tmp_path, options=replace(SHORT, score="likelihood"))
    assert report.data["accuracy"]["all"] == {"value": None, "low": None, "high": None, "n": 0, "n_answered": 2}
    assert report.data["n_without_answer"] == 2
    assert json.loads((tmp_path / "submission.json").read_text()).keys() == {"a", "b"}
    assert "none" in (tmp_path / "report.md").read_text()


def test_exact_judging(assistant, tmp_path):
    reply = assistant.answer([Sample([Message("user", "a")])], max_new_tokens=4)[0]
    items = [ask("a", rule="judge", answer=reply.upper()), ask("b", rule="judge", answer="no such reply")]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path, options=SHORT, judge=ExactJudge())
    assert [row["value"] for row in read_rows(tmp_path)] == [1.0, 0.0]
    assert report.data["settings"]["judge"] == {"name": "exact"}


def test_an_invalid_report_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a report"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match="is not a report of a benchmark"):
        Report.load(tmp_path)


def test_arrays_are_videos_too(assistant, tmp_path):
    frames = [np.full((8, 40, 40, 3), value, dtype=np.uint8) for value in (0, 255)]
    items = [ask(f"{i}", Video(frames[i % 2], fps=4)) for i in range(4)]
    evaluate(assistant, Fixed(items), run_dir=tmp_path, options=SHORT)
    rows = read_rows(tmp_path)
    assert [row["duration"] for row in rows] == [2.0] * 4
    for row, item in zip(rows, items, strict=True):
        assert row["reply"] == assistant.answer([item.sample], max_new_tokens=4)[0]


def test_items_with_key_frames_have_marks_and_keep_the_times_of_the_shown_frames(assistant, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=10, fps=5)
    items = [ask("plain", clip), ask("cites", clip), ask("outside", clip)]
    frames = {"cites": [0.4, 1.0], "outside": [0.4, 7.0]}
    items = [replace(i, sample=replace(i.sample, meta={"key_frames": frames.get(i.id)})) for i in items]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT)
    plain, cites, outside = read_rows(tmp_path / "run")
    assert (plain["points"], plain["shown"]) == ({}, [])
    assert cites["points"]["reference_recall"] == outside["points"]["reference_recall"] == 0
    assert cites["shown"] == sorted(cites["shown"])
    assert len(cites["shown"]) == cites["num_frames"]
    assert outside["status"] == "prompt_failed"
    assert "key frame at 7 s is not in the clip from 0 to 2 s" in report.data["prompt_failed"][0]["reason"]
    assert report.data["points"]["reference_f1"] == 0
    with pytest.raises(DataError, match="item 'span': the answer '9 to 2' has no span"):
        evaluate(assistant, Fixed([ask("span", rule="span", answer="9 to 2")]), run_dir=tmp_path / "span")
    items[0] = replace(items[0], sample=replace(items[0].sample, meta={"key_frames": [-1]}))
    with pytest.raises(DataError, match="item 'plain': key_frames="):
        evaluate(assistant, Fixed(items), run_dir=tmp_path / "other", options=SHORT)


def test_a_reply_whose_times_or_frames_are_scored_is_kept_with_markers():
    ids = torch.zeros(1, dtype=torch.int64)
    example = Example(ids, ids, ids.bool(), videos=(VideoInput(10.0, 20.0, (10.0, 15.0, 20.0)),))
    group, answer = VideoGroup((0,), "clip.mp4", example), Answer(0, "In Frame 2 and Frame 9, at 2.5 s.")
    item = ask("Q?", "clip.mp4")
    plain = outcome_of(item, answer, group, Moments())
    assert (plain.reply, plain.shown) == (answer.reply, ())
    span = outcome_of(replace(item, rule="span", answer="<time:1> to <time:2>"), answer, group, Moments())
    assert (span.reply, span.shown) == ("In <frame:15> and <frame:-1>, at <time:12.5>.", ())
    words = outcome_of(
        replace(item, rule="span", answer="<time:12> to <time:15>"), Answer(0, "2 - 5 seconds"), group, Moments()
    )
    assert (words.reply, words.value) == ("12 s to 15 s", 1.0), "times count from the start of the clip"
    cites = replace(item, sample=replace(item.sample, meta={"key_frames": [14.0]}))
    cited = outcome_of(cites, answer, group, Moments())
    assert (cited.reply, cited.shown) == ("In <frame:15> and <frame:-1>, at 2.5 s.", (10.0, 15.0, 20.0))
    steps = outcome_of(item, Answer(0, "At 25%."), group, Moments("{:02d}%", 100))
    assert steps.reply == "At 12.5 s."
    assert (cited.points["reference_validity"], cited.points["reference_recall"]) == (0.5, 1.0)
