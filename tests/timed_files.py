"""Small annotation files with timed sentences, in the formats of their publishers."""

import json
from pathlib import Path

from tests.benchmark_files import write_json, write_text

CHARADES = """3MSZA 24.3 30.4##person turn a light on.
3MSZA 24.3 30.4##person flipped the light switch near the door.
AMT7R 0.0 2.5##a person is putting a picture onto the wall.
AMT7R 4.3 12.5##a person is putting a picture onto the wall.
"""
TIMELENS = {
    "3MSZA": {"duration": 30.96, "spans": [[25.1, 29.0]], "queries": ["A person turns on a light."]},
    "AMT7R": {"duration": 14.0, "spans": [[4.3, 12.5]], "queries": ["A person hangs up a picture"]},
}
VAL_1 = {
    "v_one": {
        "duration": 20.0,
        "timestamps": [[0, 8.0], [6.0, 20.01]],
        "sentences": ["A man lights the stove.", "  He cooks\n two eggs."],
    },
    "v_two": {"duration": 10.0, "timestamps": [[2.5, 7.5]], "sentences": ["A dog runs."]},
}
VAL_2 = {"v_one": {"duration": 20.0, "timestamps": [[0, 20]], "sentences": ["A man makes breakfast."]}}
RECIPES = {
    "database": {
        "xHr8X2Wpmno": {
            "duration": 30.5,
            "subset": "validation",
            "recipe_type": "226",
            "video_url": "https://www.youtube.com/watch?v=xHr8X2Wpmno",
            "annotations": [
                {"segment": [4, 10], "id": 0, "sentence": "chop the lettuce"},
                {"segment": [15, 25], "id": 1, "sentence": "mix it with oil"},
            ],
        },
        "GLd3aX16zBg": {
            "duration": 12.0,
            "subset": "training",
            "recipe_type": "113",
            "video_url": "https://www.youtube.com/watch?v=GLd3aX16zBg",
            "annotations": [{"segment": [1, 5], "id": 0, "sentence": "spread butter on the bread"}],
        },
    }
}
HIGHLIGHTS = [
    {
        "qid": 2579,
        "query": "Two women cook together.",
        "duration": 12,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "relevant_windows": [[8, 12], [0, 4]],
        "relevant_clip_ids": [0, 1, 4, 5],
        "saliency_scores": [[2, 2, 1], [3, 2, 2], [4, 3, 2], [4, 4, 4]],
    },
    {
        "qid": 7803,
        "query": "A man walks inside",
        "duration": 11,
        "vid": "RoripwjYFp8_360.0_510.0",
        "relevant_windows": [[2, 6]],
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[1, 1, 1], [3, 3, 2]],
    },
]
ANSWERS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")


def write_charades(root: Path) -> Path:
    write_text(root / "charades_sta_test.txt", CHARADES)
    write_json(root / "charades-timelens.json", TIMELENS)
    return root


def write_activitynet(root: Path) -> Path:
    write_json(root / "val_1.json", VAL_1)
    write_json(root / "val_2.json", VAL_2)
    return root


def write_youcook2(root: Path) -> Path:
    write_json(root / "youcookii_annotations_trainval.json", RECIPES)
    return root


def write_highlights(root: Path, rows: list[dict] | None = None, split: str = "val") -> Path:
    rows = HIGHLIGHTS if rows is None else rows
    if split == "test":
        rows = [{key: value for key, value in row.items() if key not in ANSWERS} for row in rows]
    write_text(root / f"highlight_{split}_release.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return root
