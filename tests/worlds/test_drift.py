"""Sets of the shapes world with fixed seeds: new families and options must not change their rows or their names."""

import hashlib
import json

import pytest

from tinyvid.worlds.shapes import SetOptions, describe_set, plan_clip
from tinyvid.worlds.shapes.records import question_row

SETS = {
    "train": ({}, "5dd1c2836a01629a"),
    "iid": ({"split": "iid", "seed": 1}, "22c63d8cea79050c"),
    "unseen": ({"split": "unseen", "seed": 3, "cuts": 0.5, "fps": [7.0, 30.0], "seconds": [2.3]}, "0c662e50949883b9"),
    "bounces": ({"families": ["bounce_count", "caption", "event_list"], "questions": 1, "frames": 8},
                "7bfd02a54fab0139"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_rows_stay_as_they_were(name):
    options, expected = SETS[name]
    options = SetOptions(**options)
    digest = hashlib.sha256()
    for index in range(10):
        clip = plan_clip(options, index)
        for number in range(options.questions):
            row = question_row(clip, number, "clip.mp4", split=options.split, frames=options.frames)
            digest.update(json.dumps(row).encode())
    assert digest.hexdigest()[:16] == expected


def test_sets_keep_their_names():
    """A benchmark finds an existing set by its description."""
    described = describe_set(SetOptions(split="iid", seed=1), clips=500, crf=[18, 23, 28], codecs=["h264"])
    assert hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8] == "7cda230f"
