"""What ``correlation`` finds: shifts, stillness, similar frames; and which options it refuses."""

import itertools

import pytest
import torch

from tinyvid import ConfigError
from tinyvid.models.motion.correlation import SCALE
from tinyvid.registry import MOTIONS
from tinyvid.types import FeatureSpec

DIM, ROWS, COLUMNS = 32, 7, 6


def correlation(grid=(ROWS, COLUMNS), **options):
    features = FeatureSpec(DIM, grid[0] * grid[1], grid)
    return MOTIONS.build({"name": "correlation", **options}, features=features)


def pictures(shifts, *, seed=0, margin=9):
    """Return features (T, P, DIM) of windows of a large picture whose content has moved by (dy, dx) in each frame."""
    picture = torch.randn(ROWS + 2 * margin, COLUMNS + 2 * margin, DIM, generator=torch.Generator().manual_seed(seed))
    windows = [picture[margin - dy :, margin - dx :][:ROWS, :COLUMNS] for dy, dx in shifts]
    return torch.stack(windows).flatten(1, 2)


def probabilities(seen, radius, gap_number=0):
    """Return the probability of each displacement, (T, P, (2 * radius + 1)^2)."""
    count = (2 * radius + 1) ** 2
    found = seen[..., DIM + 2 * gap_number * count :][..., :count] / SCALE
    found[..., count // 2] += 1  # the channels are differences to standing still
    return found


def of_frame(seen, radius):
    """Return the share of each displacement in what moves in a frame, (T, (2 * radius + 1)^2); the same everywhere."""
    count = (2 * radius + 1) ** 2
    found = seen[..., DIM + count :][..., :count] / SCALE
    assert torch.equal(found, found[:, :1].expand_as(found))
    return found[:, 0]


def likeliest(seen, radius, gap_number):
    """Return the likeliest displacement of each patch, (T, rows, columns, 2)."""
    side = 2 * radius + 1
    best = probabilities(seen, radius, gap_number).argmax(-1).unflatten(1, (ROWS, COLUMNS))
    return torch.stack([best // side - radius, best % side - radius], -1)


def came_from_inside(dy, dx):
    """Return which patches were inside the frame before the picture moved by (dy, dx), (rows, columns)."""
    rows, columns = torch.arange(ROWS)[:, None] - dy, torch.arange(COLUMNS) - dx
    return (rows >= 0) & (rows < ROWS) & (columns >= 0) & (columns < COLUMNS)


@pytest.mark.parametrize("radius", [1, 3])
def test_every_shift_within_the_radius_is_found_exactly(radius):
    motion = correlation(radius=radius, gaps=[1])
    for dy, dx in itertools.product(range(-radius, radius + 1), repeat=2):
        seen, _ = motion(pictures([(0, 0), (dy, dx)]))
        found = likeliest(seen, radius, 0)
        assert (found[1][came_from_inside(dy, dx)] == torch.tensor([dy, dx])).all(), (dy, dx)
        assert not found[0].any()


def test_every_gap_sees_the_shift_since_its_own_frame():
    path = [(0, 0), (0, 1), (1, 1), (1, 2), (0, 2), (0, 3)]
    motion = correlation(radius=3, gaps=[1, 3])
    seen, _ = motion(pictures(path))
    for number, gap in enumerate((1, 3)):
        for t, (dy, dx) in enumerate(path):
            before = path[max(t - gap, 0)]
            dy, dx = dy - before[0], dx - before[1]
            found = likeliest(seen, 3, number)[t]
            assert (found[came_from_inside(dy, dx)] == torch.tensor([dy, dx])).all(), (gap, t)


def test_blocks_of_frames_do_not_change_the_channels(monkeypatch):
    features = pictures([(0, t % 3) for t in range(11)])
    whole, _ = correlation(gaps=[1, 4])(features)
    monkeypatch.setattr("tinyvid.models.motion.correlation.COSINES", 4 * (ROWS * COLUMNS) ** 2)
    torch.testing.assert_close(correlation(gaps=[1, 4])(features)[0], whole, atol=1e-4, rtol=0)


def test_a_static_clip_stands_still_to_the_border():
    seen, _ = correlation(radius=2, gaps=[1, 4])(pictures([(0, 0)] * 6))
    for number in range(2):
        assert not likeliest(seen, 2, number).any()
        assert probabilities(seen, 2, number)[..., 12].min() > 0.99


def test_channels_are_probabilities_within_the_frame():
    found = probabilities(correlation(radius=2, gaps=[1])(pictures([(0, 0), (1, 1)]))[0], 2)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, ROWS * COLUMNS))
    corner = found[:, 0].unflatten(-1, (5, 5))  # nothing can have come from above or from the left
    assert not corner[:, 3:].any()
    assert not corner[:, :, 3:].any()
    assert corner[:, :3, :3].all()


@pytest.mark.parametrize("columns", [2, 3, COLUMNS])
def test_the_frame_shows_what_moves_even_if_little_does(columns):
    """One row of the first columns moves down, by a row and then by two; then it stands still."""
    still, moving = pictures([(0, 0)], seed=1), torch.randn(columns, DIM, generator=torch.Generator().manual_seed(2))
    frames = still.unflatten(1, (ROWS, COLUMNS)).repeat(4, 1, 1, 1)
    for t, row in enumerate((1, 2, 4, 4)):
        frames[t, row, :columns] = moving
    shares = of_frame(correlation(radius=2, gaps=[1])(frames.flatten(1, 2))[0], 2)
    assert shares[1:3].argmax(-1).tolist() == [17, 22]  # (1, 0) and (2, 0)
    assert shares[1:3].max(-1).values.min() > 0.5
    assert shares.sum(-1).max() <= 1
    assert not shares[0].any()
    assert not shares[3].any()
    assert not shares[:, 12].any()  # standing still is no motion


def test_motion_does_not_depend_on_brightness():
    """A value that is added to all patches of a frame changes nothing."""
    motion = correlation(radius=1, gaps=[1])
    features = pictures([(0, 0), (0, 1), (1, 1)])
    fading = features + torch.linspace(0, 9, 3)[:, None, None] * torch.randn(DIM)
    torch.testing.assert_close(motion(fading)[0][..., DIM:], motion(features)[0][..., DIM:], atol=1e-3, rtol=0)


def test_a_frame_resembles_the_frames_of_its_own_shot():
    shots = torch.cat([pictures([(0, 0)] * 3, seed=0), pictures([(0, 0)] * 3, seed=1), pictures([(0, 0)] * 3, seed=0)])
    seen, _ = correlation(gaps=[1], similarity=9)(shots)
    alike = seen[..., -9:]
    assert torch.equal(alike, alike[:, :1].expand_as(alike))  # the same for every patch
    own = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0])
    same = own[:, None] == own
    assert alike[:, 0][same].min() > alike.min() / 100  # zero for equal frames
    assert alike[:, 0][~same].max() < alike.min() / 2


def test_one_frame_is_compared_with_itself():
    seen, _ = correlation(gaps=[1], similarity=4)(pictures([(0, 0)]))
    assert not likeliest(seen[..., :-4], 2, 0).any()
    torch.testing.assert_close(seen[..., -4:], torch.zeros(1, ROWS * COLUMNS, 4), atol=1e-4, rtol=0)


def test_it_is_causal_without_similarity():
    assert correlation().causal
    assert not correlation(similarity=2).causal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 7}, r"motion.radius=7 exceeds the tower's grid of 7 x 6 patches; use at most 6"),
        ({"radius": 0}, r"motion.radius=0 must be at least 1"),
        ({"gaps": []}, r"motion.gaps=\[\] must be increasing numbers of frames from 1 to 1000"),
        ({"gaps": [0, 1]}, r"motion.gaps=\[0, 1\] must be"),
        ({"gaps": [4, 1]}, r"motion.gaps=\[4, 1\] must be"),
        ({"gaps": [2, 2]}, r"motion.gaps=\[2, 2\] must be"),
        ({"gaps": [10**9]}, r"motion.gaps=\[1000000000\] must be"),
        ({"temperature": 0.0}, "motion.temperature=0.0 must be at least"),
        ({"similarity": -1}, "motion.similarity=-1 must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        correlation(**options)


def test_towers_without_a_grid_are_refused():
    for features in (FeatureSpec(DIM, 41, None), FeatureSpec(DIM, 1, None)):
        with pytest.raises(ConfigError, match=r"needs a rectangle of patches.*or motion=null"):
            MOTIONS.build({"name": "correlation"}, features=features)
    with pytest.raises(ConfigError, match=r"exceeds the tower's grid of 1 x 1 patches; use motion=null"):
        correlation(grid=(1, 1))
