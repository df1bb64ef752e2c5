"""``recipes/check_data.py`` finds every kind of fault with its line, on real tiny clips."""

import importlib.util
import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.clips import truncate, write_audio, write_clip
from tests.factories import tiny_overrides
from tests.goldens import TINYLLAVA_VIDEO
from tests.runs import python
from tinyvid import Assistant, ConfigError, DataError, compose
from tinyvid.command_line import CommandLine
from tinyvid.data.datasets import RowDataset
from tinyvid.diagnostics.checks import RowChecks
from tinyvid.diagnostics.transcript import transcript
from tinyvid.types import IGNORE_INDEX

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "check_data.py"


def turns(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


TALK = turns("What moves?", "A bike.")
GOOD = [
    {"id": "clip", "video": "a.mp4", "conversations": turns("<video>\nWhat moves?", "A bike.", "Where?", "Left.")},
    {"id": "image", "image": "p.png", "conversations": TALK},
    {"id": "text", "conversations": TALK},
    {"id": "two", "video": ["a.mp4", "a.mp4"], "conversations": TALK},
    {"id": "cut", "video": "a.mp4", "clip": [0.4, 1.2], "conversations": TALK},
    {"id": "folder", "video": "frames", "fps": 2, "conversations": TALK},
    {"id": "choice", "video": "a.mp4", "conversations": turns("Which?"), "options": ["a", "b"], "answer_index": 1},
]
BAD = [  # lines of the file, and the expected kinds of fault
    ("{not json}", ["json"]),
    ("[1, 2]", ["json"]),
    ({"conversations": [{"from": "humn", "value": "?"}, {"from": "gpt"}]}, ["turns", "turns"]),
    ({"conversations": turns("A?", "a") + turns("B?")[:1] + turns("C?")[:1]}, ["turns"]),
    ({"video": "../a.mp4", "conversations": TALK}, ["media"]),
    ({"video": "a.mp4", "conversations": turns("<video><video>A?", "a")}, ["markers"]),
    ({"conversations": turns("A?"), "options": ["a", "b"], "answer_index": 2}, ["options"]),
    ({"video": "nowhere.mp4", "conversations": TALK}, ["missing"]),
    ({"video": ["nowhere.mp4", "x" * 300, "a.mp4"], "conversations": TALK}, ["missing", "missing"]),
    ({"video": "text.mp4", "conversations": TALK}, ["unreadable"]),
    ({"video": "sound.mp4", "conversations": TALK}, ["unreadable"]),
    ({"video": "half.mp4", "conversations": TALK}, ["unreadable"]),
    ({"video": "a.mp4", "clip": [5, 6], "conversations": TALK}, ["unreadable"]),
    ({"video": "frames", "conversations": TALK}, ["unreadable"]),
    ({"image": "bad.png", "conversations": TALK}, ["unreadable"]),
    ({"video": "noise.mp4", "conversations": TALK}, ["undecodable"]),
    ({"conversations": turns("A <|endoftext|> B?", "a")}, ["control_token"]),
    ({"video": "a.mp4", "conversations": turns("When?", "At <time:99>.")}, ["moments"]),
    ({"video": "a.mp4", "clip": [0.4, 1.2], "conversations": turns("At <time:0.2>?", "a")}, ["moments"]),
    ({"video": "no.mp4", "conversations": turns("At <time:x>?", "At <tme:3>.")}, ["moments", "moments", "missing"]),
    ({"conversations": turns("What at <frame:1>?", "a")}, ["moments"]),
    ({"conversations": turns("A?")}, ["no_reply"]),
    ({"conversations": turns("A?", "  ")}, ["no_reply"]),
    ({"conversations": turns("A?", "a", "B?", "")}, ["no_reply"]),
    ({"conversations": [turns("A?")[0], {"from": "gpt", "value": "a", "loss": False}]}, ["no_reply"]),
    ({"Video": "a.mp4", "conversations": TALK}, ["keys"]),
    ({"video": "a.mp4", "conversations": turns("long " * 900, "a")}, ["too_long"]),
    ({"video": "nowhere.mp4", "conversations": turns("<|endoftext|>?")}, ["control_token", "no_reply", "missing"]),
    ({"conversations": turns("<|endoftext|>" + "long " * 1200, "a")}, ["control_token", "too_long"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    clip = write_clip(folder / "a.mp4", num_frames=40)
    truncate(clip, folder / "half.mp4", 0.5)
    (folder / "text.mp4").write_text("this is no video")
    write_audio(folder / "sound.mp4")
    _noise(clip, folder / "noise.mp4")
    (folder / "frames").mkdir()
    for name in ("p.png", "frames/1.png", "frames/2.png"):
        Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / name)
    (folder / "bad.png").write_bytes((folder / "p.png").read_bytes()[:60])
    lines = [json.dumps(row) for row in GOOD]
    lines += [row if isinstance(row, str) else json.dumps(row) for row, _ in BAD]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "good.json").write_text(json.dumps(GOOD, indent=1))
    return folder


def _noise(clip, target):
    """Copy a clip, and overwrite all frames after the first key frame; its frame index stays intact."""
    import av

    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for start, size in packets[12:]:
        data[start : start + size] = b"\xff" * size
    target.write_bytes(data)


@pytest.fixture(scope="module")
def overrides(folder):
    return tiny_overrides(folder / "parts")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_data_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_data_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(script, overrides, tmp_path, capsys, monkeypatch):
    """Return a function that runs the program and returns its status, output and faults."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*more, parts=overrides):
        line = CommandLine.parse([*parts, f"out={tmp_path}/out", "workers=0", *map(str, more)])
        with pytest.raises(SystemExit) as end:
            script.main(compose(line.overrides, config="check_data"), line)
        faults = [json.loads(row) for row in (tmp_path / "out" / "faults.jsonl").read_text().splitlines()]
        return end.value.code, capsys.readouterr().out, faults

    return run


@pytest.fixture(scope="module")
def processor(overrides):
    return Assistant.from_config(compose(overrides), device="meta").processor


@pytest.mark.slow
def test_every_planted_fault_is_found_with_its_line(check, folder, tmp_path):
    status, out, faults = check(f"data.path={folder}/rows.jsonl")
    assert status == 1
    found = {}
    for fault in faults:
        found.setdefault(int(fault["where"].rpartition(":")[2]), []).append(fault["kind"])
    assert found == {len(GOOD) + 1 + number: kinds for number, (_, kinds) in enumerate(BAD)}
    assert all(fault["where"].startswith(f"{folder}/rows.jsonl:") for fault in faults)
    counts = Counter(fault["kind"] for fault in faults)
    for kind, count in counts.items():
        assert any(kind in line and f" {count} " in line for line in out.splitlines()), kind
    assert (tmp_path / "out" / "lengths.png").stat().st_size > 5_000
    lengths = [json.loads(row) for row in (tmp_path / "out" / "lengths.jsonl").read_text().splitlines()]
    assert len(lengths) == len(GOOD) + len(BAD)
    assert [row["medium"] for row in lengths[:4]] == ["video", "image", "text only", "several"]
    assert [row["video"] for row in lengths[:4]] == [16, 16, 0, 32]


@pytest.mark.slow
def test_good_rows_have_no_faults(check, folder, processor):
    status, out, faults = check(f"data.path={folder}/good.json", "decode=all", "show=4")
    assert (status, faults) == (0, [])
    assert f"No faults in {len(GOOD)} rows" in out
    data = RowDataset(path=f"{folder}/good.json")
    learned = sum(int((processor(data[i]).labels != IGNORE_INDEX).sum()) for i in range(len(data)))
    assert f"Label tokens per epoch: {learned}" in out
    assert "[video 16 tokens, 4 frames of a.mp4, 0.0-1.6 s]" in out
    assert "[image 16 tokens of p.png]" in out
    assert "{+ A bike.<|endoftext|>+}" in out or "{+A bike.<|endoftext|>+}" in out


@pytest.mark.slow
def test_decoding_can_be_left_out_or_complete(check, folder):
    noise = folder / "noise.jsonl"
    noise.write_text(json.dumps({"video": "noise.mp4", "conversations": TALK}))
    assert check(f"data.path={noise}", "decode=none")[0] == 0
    for decode in ("first", "all"):
        assert [fault["kind"] for fault in check(f"data.path={noise}", f"decode={decode}")[2]] == ["undecodable"]


def test_a_clip_is_decoded_once(folder, processor, monkeypatch):
    checks = RowChecks(RowDataset(path=f"{folder}/good.json"), processor)
    read, wanted = type(processor.reader).read, []
    monkeypatch.setattr(
        type(processor.reader),
        "read",
        lambda self, path, numbers: (wanted.append(numbers), read(self, path, numbers))[1],
    )
    reports = [checks[index] for index in range(len(checks))]
    assert not any(report.faults for report in reports)
    assert [list(map(int, numbers)) for numbers in wanted] == [[0, 39], [10, 30]]


@pytest.mark.slow
def test_workers_and_mixtures_find_the_same(check, folder):
    alone = check(f"data.path={folder}/rows.jsonl")[2]
    source = f"{{name: jsonl, path: {folder}/rows.jsonl, weight: 2}}"
    status, _, faults = check("data=mixture", f"data.sources=[{source}]", "workers=2")
    assert (status, faults) == (1, alone)


def test_a_check_can_be_pickled(folder, processor):
    checks = pickle.loads(pickle.dumps(RowChecks(RowDataset(path=f"{folder}/good.json"), processor)))
    assert checks[0].video == 16


@pytest.mark.slow
def test_a_checkpoint_is_read_without_its_weights(check, folder, monkeypatch):
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("weights were read"))
    ckpt = TINYLLAVA_VIDEO / "group_qwen2"
    status, out, _ = check(f"data.path={folder}/good.json", f"ckpt={ckpt}", "sampler.num_frames=4", parts=[])
    assert status == 0, out


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_found(check, script, folder, monkeypatch):
    original = RowChecks.__getitem__

    def interrupted(self, index):
        if index == len(GOOD) + 2:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(RowChecks, "__getitem__", interrupted)
    status, out, faults = check(f"data.path={folder}/rows.jsonl")
    assert status == 130
    assert [fault["kind"] for fault in faults] == ["json", "json"]
    assert f"Interrupted after {len(GOOD) + 2} of {len(GOOD) + len(BAD)} rows" in out


@pytest.mark.slow
def test_held_out_rows_are_checked_too(check, folder, tmp_path):
    status, out, faults = check(f"data.path={folder}/good.json", f"eval_path={folder}/rows.jsonl")
    assert status == 1
    assert {fault["where"].rpartition(":")[0] for fault in faults} == {f"{folder}/rows.jsonl"}
    assert len(faults) == sum(len(kinds) for _, kinds in BAD)
    assert out.index(f"No faults in {len(GOOD)} rows") < out.index("held-out rows")


@pytest.mark.slow
def test_the_rows_of_a_benchmark_are_checked_too(check, folder):
    (folder / "asked.jsonl").write_text(json.dumps({"conversations": turns("A?"), "answer": True}))
    with pytest.raises(DataError, match="asked.jsonl:1: 'answer' must be"):
        check(
            f"data.path={folder}/good.json",
            "benchmark=custom",
            f"benchmark.root={folder}",
            "benchmark.file=asked.jsonl",
        )


@pytest.mark.slow
def test_a_long_list_of_faults_is_truncated(check, folder):
    _, out, faults = check(f"data.path={folder}/rows.jsonl", "max_shown=3")
    assert f"{len(faults) - 3} more faults are in faults.jsonl" in out


@pytest.mark.slow
def test_colors_on_a_terminal(check, folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = check(f"data.path={folder}/good.json", "show=1")[1]
    assert "\x1b[32m" in out
    assert "{+" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    out = check(f"data.path={folder}/good.json", "show=1")[1]
    assert "\x1b[32m" not in out
    assert "{+" in out


@pytest.mark.slow
def test_a_row_cannot_control_the_terminal(check, folder):
    (folder / "hostile.jsonl").write_text(json.dumps({"conversations": turns("\x1b[2J[red]A?", "a")}))
    out = check(f"data.path={folder}/hostile.jsonl", "show=1")[1]
    assert "\x1b" not in out
    assert "\\x1b[2J[red]A?" in out


@pytest.mark.slow
@pytest.mark.parametrize("connector", ["group", "mlp"])
def test_a_transcript_covers_every_token(folder, connector):
    processor = Assistant.from_config(
        compose(tiny_overrides(folder / "parts", connector=connector)), device="meta"
    ).processor
    data = RowDataset(path=f"{folder}/good.json")
    for index in range(len(data)):
        layout = processor.plan(data[index])
        passages = transcript(layout, processor)
        assert [passage.kind for passage in passages].count("video") == len(data[index].videos)
        learned = processor.tokenizer.decode(layout.labels[layout.labels != IGNORE_INDEX])
        assert "".join(passage.text for passage in passages if passage.kind == "reply") == learned
        text = processor.tokenizer.decode(layout.input_ids[~layout.video_mask])
        assert "".join(passage.text for passage in passages if passage.kind != "video") == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "data 'jsonl' needs data.path"),
        (("data.path={}/good.json", "decode=some"), "decode='some' is unknown"),
        (
            ("data.path={}/good.json", "llm.attention=eager", f"ckpt={TINYLLAVA_VIDEO}/group_qwen2"),
            "llm.attention is fixed",
        ),
    ],
)
def test_a_mistake_is_an_error_of_the_configuration(script, folder, tmp_path, arguments, message):
    line = CommandLine.parse([a.format(folder) for a in arguments] + [f"out={tmp_path}"])
    with pytest.raises(ConfigError, match=message):
        script.main(compose(line.overrides, config="check_data"), line)


@pytest.mark.slow
def test_the_command(folder, overrides, tmp_path):
    def run(*more):
        return python(SCRIPT, *overrides, f"out={tmp_path}/my (out), [1]=a", *more, cwd=tmp_path)

    done = run(f"data.path={folder}/rows.jsonl")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my (out), [1]=a"]
    done = run(f"data.path={folder}/nowhere.jsonl")
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (
        2,
        [f"DataError: data file '{folder}/nowhere.jsonl' does not exist; check the path"],
    )
    done = run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("data.path=rows.jsonl", "experiment=", "decode: first", "out="))
