import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from omegaconf import OmegaConf

from tinyvid.config import CONF_DIR
from tinyvid.errors import ConfigError
from tinyvid.registry import SAMPLERS
from tinyvid.types import VideoMeta
from tinyvid.video import samplers

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "frame_indices.json").read_text())


def clip(num_frames: int, fps: float = 30.0) -> VideoMeta:
    return VideoMeta(num_frames, fps, num_frames / fps, 64, 48)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['total']}-{row['k']}")
def test_uniform_reproduces_tinyllava_video(row):
    assert samplers.Uniform(num_frames=row["k"])(clip(row["total"])) == row["indices"]


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (901, 16, list(range(0, 901, 60))),
        (300, 10, [0, 33, 66, 99, 132, 166, 199, 232, 265, 299]),
        (240, 8, [0, 34, 68, 102, 136, 170, 204, 239]),
        (300, 8, [0, 42, 85, 128, 170, 213, 256, 299]),
    ],
)
def test_uniform_rounds_down_between_first_and_last(total, n, expected):
    assert samplers.Uniform(num_frames=n)(clip(total)) == expected


def test_uniform_unique_takes_each_frame_of_a_short_clip_once():
    assert samplers.Uniform(num_frames=16, unique=True)(clip(10)) == list(range(10))
    assert samplers.Uniform(num_frames=16, unique=True)(clip(1)) == [0]


@pytest.mark.parametrize(("duration", "expected"), [(10.9, 10), (0.4, 1), (1.0, 1), (100.0, 64)])
def test_fps_ends_takes_int_of_the_duration_up_to_the_cap(duration, expected):
    meta = VideoMeta(round(duration * 30), 30.0, duration, 64, 48)
    indices = samplers.Fps(spacing="ends")(meta)
    assert len(indices) == expected
    assert indices == samplers.Uniform(num_frames=expected)(meta)


def test_fps_ends_repeats_the_frames_of_a_clip_with_a_lower_rate():
    assert samplers.Fps(fps=2, spacing="ends")(clip(4, fps=1.0)) == [0, 0, 0, 1, 1, 2, 2, 3]


def test_fps_rate_takes_the_frame_on_screen_at_every_tick():
    assert samplers.Fps(fps=1)(clip(95, fps=25.0)) == [0, 25, 50, 75]
    assert samplers.Fps(fps=1)(clip(75, fps=25.0)) == [0, 25, 50]  # nothing is on screen at 3 s
    assert samplers.Fps(fps=1)(clip(120, fps=30000 / 1001)) == [0, 29, 59, 89, 119]
    assert samplers.Fps(fps=0.5)(clip(300)) == [0, 60, 120, 180, 240]
    assert samplers.Fps(fps=3)(clip(30)) == [0, 10, 20]


def varying(times, duration):
    """A clip whose frames are shown from these seconds on."""
    return VideoMeta(len(times), len(times) / duration, duration, 64, 48, np.array(times, dtype=float))


@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [
        (1.0, 64, [0, 1, 10, 20, 22]),  # the second frame is shown at 1, 2 and 3 s, and taken once
        (0.25, 64, [0, 10]),
        (100.0, 64, list(range(23))),
        (1.0, 3, [0, 10, 22]),
    ],
)
def test_fps_rate_counts_seconds_if_the_rate_varies(fps, most, expected):
    clip = varying([0.0, 1.0, *(3.2 + 0.1 * i for i in range(20)), 6.0], 7.0)
    assert samplers.Fps(fps=fps, max_frames=most)(clip) == expected


def test_fps_rate_begins_with_the_first_frame_if_it_is_late():
    assert samplers.Fps(fps=1)(varying([0.4, 0.5, 2.0], 3.0)) == [0, 1, 2]
    assert samplers.Fps(fps=1)(varying([0.0], 1e-9)) == [0]
    assert samplers.Fps(fps=1, max_frames=4)(varying([0.0, 1e13], 2e13)) == [0, 1]  # of a broken clock


@given(
    count=st.integers(1, 60), rate=st.sampled_from([5.0, 10.0, 25.0, 30000 / 1001]), fps=st.sampled_from([0.5, 1, 2, 7])
)
def test_fps_rate_is_the_same_for_a_constant_rate_with_times(count, rate, fps):
    constant = clip(count, fps=rate)
    timed = varying(np.arange(count) / rate, count / rate)
    assert samplers.Fps(fps=fps)(timed) == sorted(set(samplers.Fps(fps=fps)(constant)))


def test_fps_rate_takes_every_frame_once_if_the_clip_is_slower():
    assert samplers.Fps(fps=100)(clip(5, fps=25.0)) == [0, 1, 2, 3, 4]


def test_fps_rate_spreads_the_cap_over_the_whole_clip():
    assert samplers.Fps(fps=1, max_frames=8)(clip(300)) == [0, 42, 85, 128, 170, 213, 256, 299]


@pytest.mark.parametrize("spacing", ["rate", "ends"])
def test_fps_takes_one_frame_of_a_clip_of_no_duration(spacing):
    assert samplers.Fps(spacing=spacing)(VideoMeta(1, 1.0, 0.0, 8, 8)) == [0]


@pytest.mark.parametrize("fps", [10.0, 24.0, 25.0, 30000 / 1001, 60.0])
@pytest.mark.parametrize(("rate", "most", "skip"), [(1.0, 64, 1), (1.0, 64, 0), (2, 16, 1), (0.5, 7, 3)])
def test_smolvlm_reproduces_its_video_processor(fps, rate, most, skip):
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    theirs, ours = SmolVLMVideoProcessor(), samplers.SmolVLM(fps=rate, max_frames=most, skip=skip)
    for total in (1, 2, 7, 29, 30, 45, 100, 256, 401, 650, 1000, 1650, 1681, 1999, 4000, 9999):
        meta = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
        expected = theirs.sample_frames(meta, num_frames=most, fps=rate, skip_secs=skip)
        assert ours(clip(total, fps)) == expected.tolist(), total


def test_smolvlm_keeps_the_ends_of_a_clip_that_skipping_would_use_up():
    assert samplers.SmolVLM(max_frames=1, skip=0.99)(clip(4, fps=1.0)) == [0]
    assert samplers.SmolVLM(max_frames=2, skip=1.0)(VideoMeta(3, 1.0, 9.0, 8, 8)) == [1, 2]
    assert samplers.SmolVLM(max_frames=2, skip=2.0)(VideoMeta(3, 1.0, 9.0, 8, 8)) == [0, 2]


@pytest.mark.parametrize("skip", [-1.0, float("nan"), float("inf")])
def test_smolvlm_refuses_a_skip_that_is_no_duration(skip):
    with pytest.raises(ConfigError, match=f"skip={skip:g} must be a number of seconds of at least 0"):
        samplers.SmolVLM(skip=skip)


@pytest.mark.parametrize(
    ("total", "n", "first", "expected"),
    [
        # MVBench numbers the files of a folder from 1, and cuts 1.0-11.5 s at 3 fps into files 3 to 34.
        (100, 16, 0, [3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96]),
        (32, 16, 3, [3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 22, 24, 26, 28, 30, 32]),
        (180, 16, 1, [6, 17, 28, 40, 51, 62, 73, 84, 96, 107, 118, 129, 140, 151, 163, 174]),
        (300, 8, 0, [18, 55, 93, 130, 168, 205, 242, 280]),
    ],
)
def test_midpoint_reproduces_mvbench(total, n, first, expected):
    assert [first + i for i in samplers.Midpoint(num_frames=n)(clip(total))] == expected


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (3615, 16, list(range(0, 3376, 225))),  # 120.5 s
        (267, 16, [0, 33, 66, 99, 132, 165, 198, 231]),  # 8.9 s: eight frames
        (300, 8, [0, 37, 74, 111, 148, 185, 222, 259]),
        (20, 16, [0]),  # under one second
    ],
)
def test_stepping_reproduces_longvideobench(total, n, expected):
    assert samplers.Stepping(num_frames=n)(clip(total)) == expected


def look(values):
    """Return a ``look`` that shows frame i in the gray ``values[i]``."""
    return lambda indices: (np.full((2, 2, 3), values[i], np.uint8) for i in indices)


def test_content_takes_frames_where_the_picture_changes():
    still_moving_still = [0] * 40 + [8 * i for i in range(20)] + [152] * 40  # 8 / 255 = 0.031 a frame
    sampler = samplers.Content(fps=100, max_frames=10, change=0.05, even=0.0)
    choice = sampler(clip(100, fps=1.0), look(still_moving_still))
    assert choice.indices == [0, 43, 45, 47, 49, 51, 53, 55, 57, 59]
    assert choice.reason == "10 frames of 100 examined, total change 0.596: spaced by change, capped from 12"
    mixed = samplers.Content(fps=100, max_frames=10, change=0.05, even=0.5)
    indices = mixed(clip(100, fps=1.0), look(still_moving_still)).indices
    assert sum(39 <= i < 60 for i in indices) == 6
    assert indices[0] == 0
    assert indices[-1] == 99


def test_content_takes_more_frames_if_more_changes():
    sampler = samplers.Content(fps=1, max_frames=64, change=0.05)
    counts = [len(sampler(clip(60, fps=1.0), look([step * i for i in range(60)])).indices) for step in (0, 1, 2, 4)]
    assert counts == [4, 5, 10, 19]


def test_a_cut_adds_one_frame():
    choice = samplers.Content(fps=1, min_frames=1, even=0.0)(clip(60, fps=1.0), look([0] * 30 + [255] * 30))
    assert choice.indices == [0, 30]


@pytest.mark.parametrize("level", [0, 200])
def test_content_falls_back_to_even_spacing_if_nothing_changes(level):
    choice = samplers.Content(fps=1, min_frames=5)(clip(101, fps=1.0), look([level] * 101))
    assert choice.indices == [0, 25, 50, 75, 100]
    assert "evenly spaced, too little change" in choice.reason


def test_content_with_even_1_is_even_spacing():
    values = np.random.default_rng(0).integers(0, 255, 100)
    choice = samplers.Content(fps=1, max_frames=12, even=1.0)(clip(100, fps=1.0), look(values))
    assert (
        choice.indices == samplers.Uniform(num_frames=12)(clip(100))
        or np.abs(np.subtract(choice.indices, samplers.Uniform(num_frames=12)(clip(100)))).max() <= 1
    )


def test_content_looks_at_its_rate_and_takes_short_clips_whole():
    asked = []

    def watch(indices):
        asked.extend(indices)
        return look([0] * 300)(indices)

    samplers.Content(fps=1)(clip(300), watch)
    assert asked == list(range(0, 300, 30))
    assert samplers.Content(fps=1)(clip(90), watch).indices == [0, 30, 60]
    assert samplers.Content()(VideoMeta(1, 1.0, 0.0, 8, 8), watch).indices == [0]


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=80),
    most=st.integers(1, 40),
    least=st.integers(1, 40),
    change=st.floats(0.001, 1.0),
    even=st.floats(0, 1),
)
def test_content_returns_different_indices_within_its_bounds(values, most, least, change, even):
    sampler = samplers.Content(fps=1, max_frames=max(most, least), min_frames=least, change=change, even=even)
    indices = sampler(clip(len(values), fps=1.0), look(values)).indices
    assert indices == sorted(set(indices))
    assert 0 <= indices[0] <= indices[-1] < len(values)
    assert min(least, len(values)) <= len(indices) <= max(most, least)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_frames": 70}, "min_frames=70 exceeds max_frames=64"),
        ({"change": 1.5}, "change=1.5 and even=0.25 must be at most 1"),
        ({"even": -0.1}, "even=-0.1 must be at most 1, and even at least 0"),
        ({"even": float("nan")}, "even=nan must be"),
        ({"fps": 0}, "fps=0 must be positive"),
        ({"overflow": "cut"}, "'cut' is not allowed"),
    ],
)
def test_content_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        SAMPLERS.build({"name": "content", **options}) if "overflow" in options else samplers.Content(**options)


metas = st.builds(clip, st.integers(1, 5000), st.floats(0.1, 240))
built = st.one_of(
    st.builds(samplers.Uniform, num_frames=st.integers(1, 200), unique=st.booleans()),
    st.builds(
        samplers.Fps, fps=st.floats(0.01, 60), max_frames=st.integers(1, 200), spacing=st.sampled_from(["rate", "ends"])
    ),
    st.builds(samplers.SmolVLM, fps=st.floats(0.01, 60), max_frames=st.integers(1, 200), skip=st.floats(0, 60)),
    st.builds(samplers.Midpoint, num_frames=st.integers(1, 200)),
    st.builds(samplers.Stepping, num_frames=st.integers(1, 200)),
)


@given(sampler=built, meta=metas)
def test_every_sampler_returns_sorted_indices_of_the_clip(sampler, meta):
    indices = sampler(meta)
    assert indices == sorted(indices)
    assert all(isinstance(i, int) for i in indices)
    assert 0 <= indices[0] <= indices[-1] < meta.num_frames
    assert 1 <= len(indices) <= getattr(sampler, "num_frames", getattr(sampler, "max_frames", None))
    assert sampler(meta) == indices


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_yaml_states_every_option_with_the_default_of_the_code(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "sampler" / f"{name}.yaml"))
    assert config == {"name": name, **SAMPLERS.check({"name": name})}
    sampler = SAMPLERS.build(config)
    assert sampler(clip(100), look([0] * 100)).indices if getattr(sampler, "looks", False) else sampler(clip(100))


@pytest.mark.parametrize("name", ["uniform", "midpoint", "stepping"])
@pytest.mark.parametrize("count", [0, -3])
def test_zero_frames_are_refused(name, count):
    with pytest.raises(ConfigError, match=rf"sampler.num_frames={count} must be at least 1"):
        SAMPLERS.build({"name": name, "num_frames": count})
    with pytest.raises(ConfigError, match=rf"'{name}': num_frames={count} must be positive"):
        SAMPLERS.get(name)(num_frames=count)


@pytest.mark.parametrize("options", [{"fps": 0.0}, {"fps": -1.0}, {"fps": float("nan")}, {"max_frames": 0}])
def test_fps_refuses_options_that_give_no_frames(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=.*must be positive"):
        samplers.Fps(**options)


def test_fps_refuses_an_unknown_spacing():
    with pytest.raises(ConfigError, match=r"'rat' is not allowed\. Did you mean 'rate'"):
        SAMPLERS.build({"name": "fps", "spacing": "rat"})
    with pytest.raises(ConfigError, match="use 'rate' or 'ends'"):
        samplers.Fps(spacing="rat")
