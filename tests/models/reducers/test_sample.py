import numpy as np
import pytest
import torch

from tinyvid.models.reducers.sample import StridedSample
from tinyvid.types import FeatureSpec

CLIP_336 = FeatureSpec(dim=1, num_patches=576, grid=(24, 24))


def positions(total, count):
    spec = FeatureSpec(dim=1, num_patches=1, grid=(1, 1))
    return StridedSample(features=spec, tokens=count)(torch.zeros(total, 1, 1))[0].place.tolist()


def test_a_clip_and_its_thumbnail_are_3456_tokens():
    reducer = StridedSample(features=CLIP_336)
    video, _ = reducer(torch.randn(50, 576, 1))
    image, _ = reducer(torch.randn(1, 576, 1))
    assert (len(video.x), len(image.x)) == (2880, 576)
    assert set((video.place % 576).tolist()) == set(range(576))  # no column of patches is left out
    assert video.frame.bincount().tolist() == pytest.approx([57.6] * 50, abs=1)


@pytest.mark.parametrize(
    ("total", "count"), [(28_800, 2880), (36_450, 2880), (100, 99), (7, 3), (5, 5), (5, 1), (1, 1)]
)
def test_positions_are_evenly_spaced(total, count):
    kept = positions(total, count)
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == (total - 1 if count > 1 else 0)
    assert np.abs(np.array(kept) - np.linspace(0, total - 1, count)).max() < 0.5 + 1e-9


def test_a_short_clip_keeps_all_patches():
    assert positions(5, 9) == [0, 1, 2, 3, 4]
