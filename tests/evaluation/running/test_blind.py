"""Something else in place of the clip: what is shown, what stays the same, caches, resuming, reports and errors."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.clips import write_clip
from tests.evaluation.running.test_runner import SHORT, Fixed
from tests.factories import tiny_assistant
from tinyvid import (
    BENCHMARKS,
    ConfigError,
    Item,
    Message,
    Sample,
    Video,
    WritesFiles,
    compare_runs,
    evaluate,
    load_runs,
)
from tinyvid.caches import FeatureCache, tower_key
from tinyvid.data.skipped import Skipped
from tinyvid.evaluation.reporting.comparison import as_text
from tinyvid.evaluation.running.blind import CONTROLS, Control, blinded, shuffled
from tinyvid.evaluation.running.units import Preparer, plan_units
from tinyvid.video.open_video import open_video
from tinyvid.video.pixels import to_pixels


class Writing(Fixed):
    """A benchmark of given items that writes a file."""

    def files(self, outcomes):
        return {"mine.txt": str(len(outcomes))}


def ask(text, video=None):
    return Item(text, Sample([Message("user", "What?")], video=video, id=text), rule="exact", answer="x")


def prepared(processor, benchmark, items, listed=()):
    control = Control.of(benchmark, items, listed=[entry.row for entry in listed])
    known = {entry.row: entry for entry in listed}
    unit_of = Preparer(processor, benchmark, items, 4, "reply", known, control)
    return [group for unit in plan_units(items, 8) for group in unit_of(unit)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips: 12 frames, 20 frames, and 40 frames of another size."""
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(12, 160), (20, 160), (40, 320)]
    return [write_clip(folder / f"{i}.mp4", num_frames=n, width=w) for i, (n, w) in enumerate(sizes)]


def pixels(video):
    """Return the pixels (T, 3, S, S) of an input, decoded or lazy."""
    return video.pixels if video.lazy is None else torch.cat([*video.lazy])


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("blind", CONTROLS)
def test_only_the_frames_change(models, clips, blind, is_lazy):
    processor = tiny_assistant(models, connector="mlp").processor
    processor.lazy_bytes = 0 if is_lazy else processor.lazy_bytes
    items = [ask("a", Video(clips[0], start=0.1, end=0.44)), ask("b", clips[1]), ask("c", clips[2])]
    seeing = [group.example for group in prepared(processor, Fixed(items), items)]
    found = [group.example for group in prepared(processor, blinded(Fixed(items), blind=blind), items)]
    for number, (clip, control) in enumerate(zip(seeing, found, strict=True)):
        before, after = clip.videos[0], control.videos[0]
        assert (before.times, before.start, before.end) == (after.times, after.start, after.end)
        assert torch.equal(clip.input_ids, control.input_ids)
        assert torch.equal(clip.video_mask, control.video_mask)
        assert (after.lazy is not None) == is_lazy
        own, shown = pixels(before), pixels(after)
        assert len({frame.numpy().tobytes() for frame in own}) == len(own) == 4
        if blind == "black":
            processor.lazy_bytes = 1 << 27
            dark = processor(Sample([Message("user", "?")], video=np.zeros((4, 96, 160, 3), np.uint8))).videos[0].pixels
            assert torch.equal(shown, dark)
        elif blind == "other":
            (next_one,) = items[(number + 1) % 3].sample.videos
            count, others = (open_video(v, processor.reader) for v in (items[number].sample.videos[0], next_one))
            places = [index / (count.meta.num_frames - 1) for index in processor.plan(items[number].sample).indices[0]]
            there = others.read([round(place * (others.meta.num_frames - 1)) for place in places])
            assert torch.equal(shown, to_pixels(there.frames, processor.image))
        elif blind == "middle":
            assert torch.equal(shown, own[2].expand_as(own))
        elif blind == "reversed":
            assert torch.equal(shown, own.flip(0))
        else:
            order = [[torch.equal(frame, other) for other in own].index(True) for frame in shown]
            assert sorted(order) == [0, 1, 2, 3] != order
            again = [group.example for group in prepared(processor, blinded(Fixed(items), blind=blind), items)]
            assert torch.equal(pixels(again[number].videos[0]), shown)


@pytest.mark.parametrize("indices", [(0, 1), (3, 3, 7), (5, 5, 5, 6), tuple(range(16))])
def test_shuffled_is_never_the_same_order(indices):
    orders = {shuffled(indices, seed=str(seed)) for seed in range(40)}
    assert indices not in orders
    assert {tuple(sorted(order)) for order in orders} == {indices}
    assert shuffled(indices, seed="a") == shuffled(indices, seed="a")
    assert shuffled((4, 4), seed="a") == (4, 4)


def test_another_video_is_readable_and_not_part_of_the_item(processor, clips, tmp_path):
    both = Sample([Message("user", "What?", videos=2)], video=[clips[0], clips[2]], id="both")
    items = [ask("listed", clips[1]), Item("both", both, rule="exact", answer="x"), ask("gone", tmp_path / "gone.mp4")]
    items += [ask("cut", Video(clips[0], start=0.2)), ask("array", np.full((3, 8, 8, 3), 255, np.uint8))]
    benchmark = blinded(Fixed(items), blind="other")
    known = Skipped("listed", str(clips[1]), "VideoError", "it hangs", "pyav")
    control = Control.of(benchmark, items, listed=["listed"])
    assert [str(video) for video in control.videos.values()] == [str(clips[0]), str(clips[2]), "array(3, 8, 8, 3)"]
    groups = {group.indices: group for group in prepared(processor, benchmark, items, [known])}
    assert groups[0,].failure == "it hangs"
    assert "no such file" in groups[2,].failure, "the clip of an item is always opened"
    white = [float(video.pixels.min()) for video in groups[1,].example.videos]
    assert white == pytest.approx([1.0, 1.0]), "the array is the only one that is left"


# --- runs -------------------------------------------------------------------------------------------------------------


def test_every_benchmark_has_the_option():
    assert [*BENCHMARKS.outer_options()] == ["blind"]
    listed = Writing([])
    assert blinded(listed) is listed
    black = blinded(listed, blind="black")
    assert (black.blind, hasattr(listed, "blind"), isinstance(black, WritesFiles)) == ("black", False, True)
    with pytest.raises(ConfigError, match=r"blind='blak' is not allowed. Did you mean 'black'\?"):
        BENCHMARKS.check({"name": "custom", "root": "x", "blind": "blak"})


@pytest.mark.parametrize("blind", CONTROLS)
def test_a_cache_of_features_keeps_what_was_shown_apart(assistant, clips, tmp_path, blind):
    model, processor, items = assistant.model.requires_grad_(False), assistant.processor, [ask("a", clips[0])]
    items.append(ask("b", clips[1]))
    both = [Fixed(items), blinded(Fixed(items), blind=blind)]
    shown = [[group.example.videos[0].pixels for group in prepared(processor, one, items)] for one in both]
    expected = [[model.vision_tower(pixels) for pixels in of] for of in shown]
    assert not torch.allclose(*(of[0] for of in expected))
    key = tower_key(model.vision_tower, assistant.config["vision_tower"])
    cache = processor.features = FeatureCache(tmp_path, max_gib=1, tower_key=key)
    for number in (1, 0, 1, 0):
        examples = [group.example for group in prepared(processor, both[number], items)]
        batch = model.fill_features(processor.collate(examples), cache)
        for video, features in zip(batch.videos, expected[number], strict=True):
            assert torch.allclose(video.features, features, atol=1e-5)
    assert cache.store.statistics.hits >= (2 if blind == "black" else 4), "arrays are not cached"


@pytest.mark.slow
def test_a_report_says_what_was_shown_and_runs_do_not_mix(assistant, clips, tmp_path):
    items = [ask("a", clips[0]), ask("b", clips[1])]
    runs = []
    for blind in (None, "black", "other"):
        folder = tmp_path / str(blind)
        settings = {"options": {"name": "listed", "blind": blind}}
        benchmark = blinded(Fixed(items), blind=blind)
        report = evaluate(assistant, benchmark, run_dir=folder, options=SHORT, settings=settings)
        runs.append(report.folder)
        assert report.data["blind"] == report.data["settings"]["blind"] == blind
        assert (f"shown {blind}:" in report.text()) == (blind is not None)
        title = (folder / "report.md").read_text().splitlines()[0]
        assert title.endswith("prompt style official" + (f", shown in place of each clip: {blind}" if blind else ""))
    with pytest.raises(ConfigError, match="other settings, which cannot be continued: blind: 'other' -> 'black'"):
        evaluate(assistant, blinded(Fixed(items), blind="black"), run_dir=tmp_path / "other", options=SHORT)
    comparison = compare_runs(load_runs(runs))
    assert [run["name"] for run in comparison["runs"]] == ["blind=None", "blind=black", "blind=other"]
    told = as_text(compare_runs(load_runs(runs, ["x", "y", "z"])))
    assert re.findall(r"^\| ([xyz][^|]*) \| \d", told, flags=re.MULTILINE) == [
        "x",
        "y (shown: black)",
        "z (shown: other)",
    ]


@pytest.mark.parametrize(
    ("blind", "videos", "message"),
    [
        ("black", [None], "blind=black replaces videos, but no item of benchmark 'fixed' has one"),
        ("other", [0, 0, None], "has none for item '0' of benchmark 'fixed'; ask about more videos"),
        ("other", [0, 1, [0, 1]], "has none for item '2'"),
    ],
)
def test_nothing_to_show_is_an_error_before_the_run(assistant, clips, tmp_path, blind, videos, message):
    def of(number):
        return [clips[n] for n in number] if isinstance(number, list) else None if number is None else clips[number]

    items = [ask(str(i), of(number)) for i, number in enumerate(videos)]
    with pytest.raises(ConfigError, match=message):
        evaluate(assistant, blinded(Fixed(items), blind=blind), run_dir=tmp_path / "run", options=replace(SHORT))
    assert not (tmp_path / "run").exists()
