"""Small annotation files and media in the formats of the benchmarks, and outcomes with given values."""

import json
import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.clips import numbered_frame, write_clip
from tinyvid import BENCHMARKS, RUBRICS, Item, Outcome, build_benchmark
from tinyvid.config import CONF_DIR


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def touch(path: Path) -> Path:
    """Create an empty file in place of a video; reading annotations does not open videos."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def video(path: Path, **options) -> Path:
    """Write a clip of 2 seconds, in the container of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".webm": {"codec": "libvpx", "bframes": 0}, ".avi": {"codec": "mpeg4", "bframes": 0}}.get(path.suffix, {})
    return write_clip(path, **({"num_frames": 20, "fps": 10} | codec | options))


def frames(folder: Path, count: int) -> Path:
    """Write numbered frames as in MVBench: 00001.jpg shows the number 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.fromarray(numbered_frame(number)).save(folder / f"{number:05d}.jpg")
    return folder


def build(name: str, root: Path, **options):
    return build_benchmark({"name": name, "root": str(root), **options})


def prompts(benchmark, index: int = 0) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in benchmark[index].sample.messages]


def fields(item: Item) -> tuple:
    """Return the fields of an item, for comparison."""
    videos = [(str(video), video.start, video.end, video.fps) for video in item.sample.videos]
    said = [(message.role, message.text) for message in item.sample.messages]
    rest = (item.id, item.sample.id, item.rule, item.answer, dict(item.options), dict(item.groups), item.prefix)
    return (*rest, item.question, item.rubric, videos, said)


def assert_contract(benchmark) -> None:
    """Check the contract of a benchmark."""
    assert benchmark.name in BENCHMARKS.names()
    assert (CONF_DIR / "benchmark" / f"{benchmark.name}.yaml").is_file()
    assert "http" in benchmark.source
    assert benchmark.prompt_style in (
        *("official", "interleaved", "tinyllava_video", "lmms_eval", "timelens", "timechat"),
    )
    items = [fields(benchmark[index]) for index in range(len(benchmark))]
    assert len({item[0] for item in items}) == len(items) > 0
    assert all(item[0] == item[1] for item in items), "errors name the sample by the item's id"
    again = pickle.loads(pickle.dumps(benchmark))
    assert [fields(again[index]) for index in range(len(again))] == items == [fields(item) for item in benchmark]
    for item in benchmark:
        assert item.question
        assert item.rubric in RUBRICS
        assert len(item.sample.videos) == 1
        assert not any(marker in message.text for message in item.sample.messages for marker in ("<image>", "<video>"))
        assert all(text.strip() == text and text for text in item.options.values())


def outcomes(benchmark, values, *, points=None, statuses=None, predictions=None, exact=None) -> list[Outcome]:
    """Return one outcome per item, with the given values."""
    items = [benchmark[index] for index in range(len(benchmark))]
    assert len(items) == len(values)
    return [
        Outcome(
            id=item.id,
            status=(statuses or ["answered"] * len(items))[number],
            value=value,
            reply=None if predictions is None else predictions[number],
            prediction=None if predictions is None else predictions[number],
            answer=item.answer,
            exact=bool(exact and exact[number]),
            groups=item.groups,
            points=(points or [{}] * len(items))[number],
        )
        for number, (item, value) in enumerate(zip(items, values, strict=True))
    ]
