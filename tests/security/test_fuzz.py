"""Damaged checkpoints of every layout end in a typed error or an answer; ``fuzz.py`` runs many more."""

import pytest
from hypothesis import given, settings, strategies as st

from tests.security.fuzz import outcome, sources
from tests.security.layouts import CHECKPOINTS, PARTS

FURTHER = ("tinyllava_video_phi", "native_timm", "native_open_clip")
FURTHER += ("llava_siglip", "llava_clip", "llava_onevision", "smolvlm")


pytestmark = pytest.mark.slow


def test_every_layout_is_tried():
    assert sorted(sources()) == sorted([*CHECKPOINTS, *PARTS, *FURTHER])


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([*CHECKPOINTS, *PARTS, *FURTHER]), st.lists(st.integers(0, 2**32), min_size=1, max_size=3))
def test_damaged_checkpoints_are_typed_errors(layout, seeds):
    changes, _, fault = outcome(layout, seeds)
    assert fault is None, changes
