"""The length planner: what it reduces, by how much, and what it reports."""

import pytest

from tinyvid.processing.planner import VideoPlan, fit, thin
from tinyvid.types import TokenBudget


def plan(num_frames, per_frame=2, duration=None):
    return VideoPlan(tuple(range(num_frames)), num_frames, duration or float(num_frames), TokenBudget(0, per_frame))


def within(limit, text=10, turns=1):
    return lambda plans: text + turns * sum(plan.num_places for plan in plans) <= limit


@pytest.mark.parametrize(("limit", "turns", "frames"), [(110, 1, 50), (109, 1, 49), (12, 1, 1), (110, 3, 16)])
def test_as_many_frames_as_fit_are_kept(limit, turns, frames):
    (kept,) = fit((plan(100),), fits=within(limit, turns=turns), overflow="fewer_frames")
    assert len(kept.indices) == frames
    assert (kept.indices[0], kept.wanted) == (0, 100)
    assert kept.fps == pytest.approx(frames / 100)
    if frames > 1:
        gaps = {b - a for a, b in zip(kept.indices, kept.indices[1:], strict=False)}
        assert kept.indices[-1] == 99
        assert max(gaps) - min(gaps) <= 1


def test_nothing_fits_if_the_text_alone_is_too_long():
    assert fit((plan(100),), fits=within(11), overflow="fewer_frames") is None
    assert fit((), fits=lambda plans: False, overflow="fewer_frames") is None


def test_several_videos_are_reduced_alike_and_keep_at_least_one_frame():
    kept = fit((plan(100), plan(50), plan(1)), fits=within(100), overflow="fewer_frames")
    assert [len(one.indices) for one in kept] == [29, 14, 1]
    assert thin((plan(100), plan(3)), 1, 100)[1].indices == (0,)


def test_fewer_tokens_keeps_the_frames():
    (kept,) = fit((plan(100, 17),), fits=within(600), overflow="fewer_tokens", smaller=(10, 5, 2))
    assert (len(kept.indices), kept.budget.per_frame) == (100, 5)
    assert fit((plan(100, 17),), fits=within(200), overflow="fewer_tokens", smaller=(10, 5, 2)) is None
    assert fit((plan(100, 17),), fits=within(600), overflow="fewer_tokens") is None


def test_refuse_changes_nothing():
    assert fit((plan(100),), fits=within(60), overflow="refuse") is None


def test_a_plan_reports_its_frames():
    (kept,) = thin((plan(10_800),), 5400, 10_800)
    assert str(kept) == "5,400 of 10,800 frames of 10,800.0 s, 0.5 frames/s, 2 tokens each"
    assert plan(1, duration=None).fps == 1.0
    assert VideoPlan((0,), 1, 0.0, TokenBudget(8), "still").fps == 0.0
    assert str(VideoPlan((0,), 1, 2.0, TokenBudget(8), "still")) == "1 frames of 2.0 s, 0.5 frames/s (still)"
