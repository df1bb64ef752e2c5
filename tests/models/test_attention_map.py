"""Attention maps: the weights of the context attention, drawn over the right patches."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories import tiny_assistant, tiny_overrides
from tests.runs import python
from tinyvid import ConfigError, DataError, Message, Sample
from tinyvid.models.attention_map import MAX_FRAMES, AttentionMap, attention_maps

ROOT = Path(__file__).parents[2]


@pytest.fixture
def assistant(models):
    return tiny_assistant(models, connector="llamavid")


def frames(count=6):
    return np.random.default_rng(0).integers(0, 255, (count, 40, 40, 3), dtype=np.uint8)


def test_a_map_is_a_share_per_patch(assistant):
    (found,) = assistant.attention_map(frames(), "Where is the dog?")
    assert found.weights.shape == (4, 4, 4)
    np.testing.assert_allclose(found.weights.sum((1, 2)), 1, atol=1e-5)
    assert found.frames.shape == (4, 56, 56, 3)
    assert found.times.tolist() == [float(i) for i in assistant.processor.sampler(SixFrames())]
    (other,) = assistant.attention_map(frames(), "How many cats sleep?")
    assert not np.allclose(found.weights, other.weights, atol=1e-7)


class SixFrames:
    num_frames, fps, duration = 6, 1.0, 6.0


def test_every_turn_has_a_separate_map(assistant):
    talk = [Message("user", "Where is the dog?"), Message("assistant", "Here."), Message("user", "And the cat?")]
    maps = attention_maps(assistant.model, assistant.processor, Sample(talk, video=frames()))
    assert [one.question for one in maps] == ["Where is the dog?", "And the cat?"]
    (alone,) = assistant.attention_map(frames(), "And the cat?")
    np.testing.assert_allclose(maps[1].weights, alone.weights, atol=1e-6)


def test_the_frames_are_those_that_the_tower_sees(assistant):
    plain = np.full((4, 56, 56, 3), 200, np.uint8)
    plain[:, :28] = 10
    (found,) = assistant.attention_map(plain, "Q?")
    assert np.abs(found.frames.astype(int) - plain).max() <= 1


def test_the_brightest_patch_has_the_largest_weight(tmp_path):
    weights = np.zeros((2, 4, 4), np.float32)
    weights[0, 0, 3] = weights[1, 2, 1] = 1.0
    drawn = AttentionMap("Q?", weights, np.full((2, 56, 56, 3), 250, np.uint8), np.arange(2.0))
    assert drawn.save(tmp_path / "map.png", side=56) == [0, 1]
    sheet = np.asarray(Image.open(tmp_path / "map.png").convert("L"))
    first, second = sheet[4:60, 4:60], sheet[4:60, 64:120]
    assert (first[:14, 42:] == 250).all()
    assert first[:, :42].max() <= 50
    assert (second[28:42, 14:28] == 250).all()
    assert (second == 250).sum() == 14 * 14


def test_a_long_video_is_drawn_in_part(tmp_path):
    count = 500
    long = AttentionMap("Q?", np.ones((count, 2, 2)), np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) / 2)
    drawn = long.save(tmp_path / "map.png", side=16)
    assert len(drawn) == MAX_FRAMES
    assert (drawn[0], drawn[-1]) == (0, count - 1)


def test_what_cannot_be_drawn_is_an_error(models, assistant, tmp_path):
    blind = tiny_assistant(models)
    with pytest.raises(ConfigError, match="use connector=llamavid"):
        blind.attention_map(frames(), "Q?")
    with pytest.raises(DataError, match="has no video"):
        attention_maps(assistant.model, assistant.processor, Sample([Message("user", "Q?")]))
    (found,) = assistant.attention_map(frames(), "Q?")
    with pytest.raises(DataError, match="cannot be written to"):
        found.save(tmp_path / "absent" / "map.png")


@pytest.mark.slow
def test_eval_draws_it(models, tmp_path):
    target = tmp_path / "what, it = [saw].png"
    arguments = [*tiny_overrides(models, connector="llamavid"), f"video={ROOT / 'examples' / 'clip.mp4'}"]
    arguments += ["question=What moves?", f"attention_map={target}", "max_new_tokens=2", "device=cpu"]
    done = python(ROOT / "eval.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {target}: 4 of 4 frames" in done.stderr
    assert Image.open(target).size[0] == 4 + 4 * 228
