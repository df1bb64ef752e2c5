"""Scenes of the shapes world: what is drawn, that it fits together, and that pixels follow from it at any size."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tinyvid import ConfigError, DataError
from tinyvid.worlds.shapes import (
    COLORS,
    EXTRA_COLORS,
    HELD_OUT,
    KINDS,
    MOTIONS,
    boxes,
    frame_times,
    render,
    render_at,
    sample_scene,
    sampled_times,
    sampling,
    scene_from_dict,
    scene_to_dict,
)

TIMES = np.linspace(0, 1, 65)


def scenes(count, seed=0, **options):
    return [sample_scene(np.random.default_rng([seed, i]), **options) for i in range(count)]


@pytest.fixture(scope="module")
def many():
    return scenes(1500)


def pairs(scene):
    return {(color, shape.kind) for shape in scene.shapes for color in shape.colors}


def num_events(scene):
    return sum(event.kind in ("appear", "disappear", "recolor") for event in scene.events)


# --- what is drawn ----------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_scene_and_another_seed_another():
    assert scenes(20) == scenes(20)
    assert not any(one == two for one, two in zip(scenes(20), scenes(20, seed=1), strict=True))


@pytest.mark.slow
def test_scenes_are_as_crowded_and_as_busy_as_they_are_meant_to_be(many):
    counts = Counter(len(scene.shapes) for scene in many)
    assert [round(counts[n] / len(many), 1) for n in (1, 2, 3, 4)] == [0.2, 0.3, 0.3, 0.2]
    assert 0.48 < np.mean([num_events(scene) >= 2 for scene in many]) < 0.6
    kinds = Counter(event.kind for scene in many for event in scene.events)
    assert max(kinds[k] for k in ("appear", "disappear", "recolor")) < 1.6 * kinds["appear"]
    assert 0.2 < np.mean([any(e.kind == "pass" for e in s.events) for s in many if len(s.shapes) > 1]) < 0.5
    assert 0.08 < np.mean([bool(s.collisions) for s in many if len(s.shapes) > 1]) < 0.2


def test_looks_and_motions_are_even(many):
    shapes = [shape for scene in many for shape in scene.shapes]
    for values, names in (([s.color for s in shapes], COLORS), ([s.kind for s in shapes], KINDS)):
        counts = Counter(values)
        assert set(counts) == set(names)
        assert max(counts.values()) < 1.25 * min(counts.values())
    motions = Counter(shape.motion for shape in shapes)
    assert set(motions) == set(MOTIONS)
    assert max(motions.values()) < 2.7 * min(motions.values())
    turns = Counter((shape.motion, shape.second_motion) for shape in shapes if shape.second_motion)
    assert len(turns) == 12


def test_no_two_shapes_of_a_scene_ever_share_color_and_kind(many):
    for scene in many:
        assert len(pairs(scene)) == sum(len(shape.colors) for shape in scene.shapes)


def test_events_keep_their_distance(many):
    for scene in many:
        times = [event.time for event in scene.events if event.kind in ("appear", "disappear", "recolor")]
        assert times == sorted(times)
        assert all(0.2 <= time <= 0.8 for time in times)
        assert all(later - sooner >= 0.2 for sooner, later in pairwise(times))


def test_shapes_stay_in_the_picture_and_apart(many):
    for scene in many:
        tracks = scene.track(TIMES)
        inside = np.minimum(tracks.center, 1 - tracks.center).min(-1) - tracks.radius
        assert (inside[tracks.visible] >= 0).all()
        together = {frozenset((event.shape, event.other)) for event in scene.collisions}
        for one in range(len(scene.shapes)):
            for two in range(one):
                both = tracks.visible[:, one] & tracks.visible[:, two]
                gap = np.linalg.norm(tracks.center[:, one] - tracks.center[:, two], axis=-1)
                share = (gap / (tracks.radius[:, one] + tracks.radius[:, two]))[both]
                assert share.min(initial=9) > (0.5 if frozenset((one, two)) in together else 0.95)


@pytest.mark.slow
def test_options_shape_the_scene():
    assert {len(scene.shapes) for scene in scenes(40, num_shapes=3)} == {3}
    assert all(num_events(scene) >= 2 for scene in scenes(60, min_events=2))
    assert not any(pairs(scene) & set(HELD_OUT) for scene in scenes(200, exclude=HELD_OUT))
    for scene in scenes(60, require=HELD_OUT):
        assert {(shape.color, shape.kind) for shape in scene.shapes} & set(HELD_OUT)
    bouncing = scenes(60, require_motion="bounce", bounces=(1, 4))
    assert {next(s.bounces for s in scene.shapes if s.motion == "bounce") for scene in bouncing} == {1, 2, 3, 4}
    assert not any(shape.color in EXTRA_COLORS for scene in scenes(200) for shape in scene.shapes)
    extra = {shape.color for scene in scenes(60, colors=[*EXTRA_COLORS, "red"]) for shape in scene.shapes}
    assert extra == {*EXTRA_COLORS, "red"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_shapes": 0}, "num_shapes=0 must be between 1 and 4"),
        ({"num_shapes": 5}, "num_shapes=5 must be between 1 and 4"),
        ({"num_shapes": 1, "min_events": 2}, "min_events=2 is impossible with 1 shapes.*use 0 to 1"),
        ({"min_events": 4}, "min_events=4 .*use 0 to 3"),
        ({"colors": ["read"]}, "colors: 'read' is unknown. Did you mean 'red'?"),
        ({"colors": ["red"]}, "4 pairs of color and shape are too few for 4 shapes"),
        ({"exclude": [("red", "star")]}, r"pair \('red', 'star'\) is unknown"),
        ({"exclude": HELD_OUT, "require": HELD_OUT}, "colors and exclude leave none of these pairs"),
        ({"require_motion": "jump"}, "require_motion='jump' is unknown"),
        ({"bounces": (3, 2)}, r"bounces=\[3, 2\] must be a range within 1 to 6"),
    ],
)
def test_an_impossible_scene_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        sample_scene(np.random.default_rng(0), **options)


@pytest.mark.slow
def test_the_search_for_a_scene_ends(monkeypatch):
    monkeypatch.setattr(sampling, "RESTARTS", 60)

    def search():  # six bounces need a whole clip, which few of such busy shapes have
        for seed in range(300):
            rng = np.random.default_rng(seed)
            sample_scene(rng, num_shapes=4, min_events=3, require_motion="bounce", bounces=(6, 6))

    with pytest.raises(DataError, match="no scene with 4 shapes and 3 events was found in 60 tries; use fewer"):
        search()


def test_a_scene_survives_json(many):
    for scene in [*many[:50], *scenes(10, cut=True, pan=True)]:
        again = scene_from_dict(json.loads(json.dumps(scene_to_dict(scene))))
        assert again == scene
        assert again.state(0.4) == scene.state(0.4)
    for broken in ({}, {"shapes": [1]}, scene_to_dict(many[0]) | {"shots": [{}]}):
        with pytest.raises(DataError, match="is not a scene of the shapes world"):
            scene_from_dict(broken)


# --- cameras ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cut", "pan"), [(True, False), (False, True), (True, True)])
def test_cuts_and_pans_keep_every_shape_in_the_picture(cut, pan):
    for scene in scenes(60, cut=cut, pan=pan):
        assert len(scene.shots) == 1 + cut
        tracks = scene.track(TIMES)
        inside = np.minimum(tracks.center, 1 - tracks.center).min(-1) - tracks.radius
        assert (inside[tracks.visible] >= 0).all()
        look, _ = scene.camera(TIMES)
        assert (np.ptp(look[scene.shots[-1].start <= TIMES], axis=0).max() > 0.05) == pan


def test_a_cut_changes_the_whole_picture_and_a_pan_moves_the_background():
    scene = sample_scene(np.random.default_rng(1), cut=True)
    start = scene.shots[1].start
    before, after = render_at(scene, np.array([start - 1e-6, start]), width=64, height=64).astype(int)
    assert np.abs(before - after).mean() > 4
    scene = sample_scene(np.random.default_rng(1), num_shapes=1, pan=True)
    first, last = render_at(scene, np.array([0.0, 1.0]), width=64, height=64).astype(int)
    assert (np.abs(first - last).max(-1) > 2).mean() > 0.3


def test_a_still_shape_stays_on_the_background_while_the_camera_travels():
    scene = sample_scene(np.random.default_rng(2), num_shapes=1, require_motion="still", pan=True)
    tracks = scene.track(TIMES)
    (shot,) = scene.shots
    moved = tracks.center[-1, 0] - tracks.center[0, 0]
    assert np.allclose(moved, -np.array(shot.pan) * shot.zoom)
    assert [event.kind for event in scene.events if event.kind == "pass"] == []


# --- pixels -----------------------------------------------------------------------------------------------------


def test_a_scene_renders_the_same_twice_and_as_asked():
    scene = sample_scene(np.random.default_rng(4), num_shapes=3)
    frames = render(scene, num_frames=5, width=96, height=54)
    assert (frames.shape, frames.dtype) == ((5, 54, 96, 3), np.uint8)
    assert np.array_equal(frames, render(scene, num_frames=5, width=96, height=54))
    assert np.array_equal(render_at(scene, frame_times(5)[2:3], width=96, height=54)[0], frames[2])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(64, 64), (160, 160), (128, 96), (160, 90), (72, 128)])
@pytest.mark.parametrize("num_frames", [8, 16, 90])
def test_shapes_are_where_their_boxes_are_at_any_size_and_rate(width, height, num_frames):
    scene = sample_scene(np.random.default_rng(5), num_shapes=4, min_events=2)
    bare = replace(scene, shapes=tuple(replace(shape, disappears=0.0) for shape in scene.shapes))
    background = render(bare, num_frames=num_frames, width=width, height=height).astype(int)
    painted = np.abs(render(scene, num_frames=num_frames, width=width, height=height) - background).max(-1) > 12
    found = boxes(scene, num_frames=num_frames, width=width, height=height)
    states = [scene.state(time, aspect=width / height) for time in frame_times(num_frames)]
    for frame, (row, state) in enumerate(zip(found, states, strict=True)):
        covered = np.zeros((height, width), dtype=bool)
        for box, shape in zip(row, state, strict=True):
            assert (box is not None) == shape.visible
            if box is None:
                continue
            left, top, right, bottom = box
            assert 0 <= left < shape.x * width < right <= width
            assert 0 <= top < shape.y * height < bottom <= height
            inner = painted[frame, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
            assert inner.any(0).mean() > 0.9  # the paint reaches the box's sides
            assert inner.any(1).mean() > 0.9
            covered[int(top) - 1 : int(bottom) + 2, max(int(left) - 1, 0) : int(right) + 2] = True
        assert not (painted[frame] & ~covered).any()


def test_shapes_are_not_distorted_in_wide_and_tall_pictures():
    scene = sample_scene(np.random.default_rng(6), num_shapes=1, require=[("red", "circle")], require_motion="left")
    for width, height in ((64, 64), (128, 72), (72, 128)):
        ((box,),) = boxes(scene, num_frames=1, width=width, height=height)
        assert box is None or abs((box[2] - box[0]) - (box[3] - box[1])) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_frames": 0}, "num_frames=0 must be at least 1"), ({"num_frames": 1, "width": 8}, "at least 16 pixels")],
)
def test_a_picture_of_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        render(sample_scene(np.random.default_rng(0)), **options)


def test_sampled_times_are_those_of_the_sampler():
    from tinyvid.types import VideoMeta
    from tinyvid.video.samplers import Uniform

    for num_frames in (8, 16, 40, 301):
        indices = Uniform(num_frames=16)(VideoMeta(num_frames, 8.0, num_frames / 8, 64, 64))
        assert np.allclose(sampled_times(num_frames, 16), (np.array(indices) + 0.5) / num_frames)
