"""Which clips and questions a call asks, and the file of answers that an interrupted call continues."""

import csv
import json

import pytest

from tinyvid import ConfigError
from tinyvid.answers import AnswerFile, ClipAnswer, find_clips, read_lines


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (
        "clips/b.mp4",
        "phone/a.3gp",
        "clips/a.MKV",
        "clips/notes.txt",
        "frames/1.png",
        "both/1.png",
        "both/a.mp4",
        "x[1]*.mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("clips", ["clips/a.MKV", "clips/b.mp4"]),
        ("phone", ["phone/a.3gp"]),
        ("clips/*.mp4", ["clips/b.mp4"]),
        ("**/*.mp4", ["both/a.mp4", "clips/b.mp4", "x[1]*.mp4"]),
        ("clips/[ab].*", ["clips/a.MKV", "clips/b.mp4"]),
        ("clips/b.mp4", ["clips/b.mp4"]),
        ("x[1]*.mp4", ["x[1]*.mp4"]),  # an existing path is not a pattern
        ("frames", ["frames"]),  # a folder of frames
        ("empty", ["empty"]),  # opening it reports the error
        ("nowhere.mp4", ["nowhere.mp4"]),
        ("https://a.b/c?d", ["https://a.b/c?d"]),
        ("", [""]),
    ],
)
def test_a_path_stands_for_clips(folder, text, found):
    assert find_clips(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clips/*.webm", r"video='clips/\*.webm' matches no file"),
        ("both", r"contains 1 videos and 1 images; give a pattern, such as 'both/\*.mp4'"),
    ],
)
def test_a_pattern_or_folder_that_is_not_understood_is_refused(folder, text, message):
    with pytest.raises(ConfigError, match=message):
        find_clips(text)


def test_questions_are_lines_of_a_file(tmp_path):
    text, rows = tmp_path / "q.txt", tmp_path / "q.jsonl"
    text.write_text("\ufeffWhat is it?\n\n 数据? \n", encoding="utf-8")
    rows.write_text('"What is\u2028it?"\n{"question": "two\\nlines", "id": 3}\n', encoding="utf-8")
    assert read_lines(str(text), key="questions") == ["What is it?", "数据?"]
    assert read_lines(str(rows), key="questions") == ["What is\u2028it?", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"\n \n", "is empty; write one entry per line"),
        ("q.txt", b"\xff\xfe", "UnicodeDecodeError: .*give a text file in UTF-8"),
        ("q.jsonl", b'{"qestion": "a"}', r"entry 1 has no question, got None"),
        ("q.jsonl", b"3", "entry 1 has no question, got 3"),
        ("q.jsonl", b"{", "JSONDecodeError: .*write a JSON string or object on each line"),
        ("absent.txt", None, "FileNotFoundError"),
    ],
)
def test_a_file_of_questions_that_is_not_understood_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_lines(str(tmp_path / name), key="questions")


ANSWERS = [
    ClipAnswer("a, \"b\"\n'c'.mp4", "Q?", "one\r\ntwo, \x1b", "", "s"),
    ClipAnswer("\udcff.mp4", "数据?", "", "VideoError: x", "s"),
    ClipAnswer("c.mp4", "Q?", "", "", "s"),
]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_of_answers_continues_after_every_cut(tmp_path, kind):
    """Whatever a kill leaves of the file, complete replies are kept, and nothing else."""
    path = tmp_path / f"out/answers.{kind}"
    file = AnswerFile(str(path))
    assert file.resume("s") == []
    header = path.stat().st_size
    file.append(ANSWERS[:1])
    first = path.stat().st_size
    file.append(ANSWERS[1:])
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = file.resume("s")
        assert kept == [answer for answer in ANSWERS if not answer.error][: len(kept)]
        assert len(kept) == (2 if cut == len(whole) else int(cut >= first)), cut
        assert cut < header or path.read_bytes().startswith(whole[:header])
    file.append(ANSWERS[1:2])
    if kind == "csv":
        rows = list(csv.DictReader(path.open(newline="", encoding="utf-8", errors="surrogateescape")))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["video"] for row in rows] == [ANSWERS[0].video, ANSWERS[2].video, ANSWERS[1].video]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": 1}\n', "choose another file"),
        ("a.jsonl", "text\n", "choose another file"),
        ("a.csv", "a,b\n1,2\n", "choose another file"),
        ("a.csv", "video,question,reply,error,settings\na,b,c,,other\n", "contains answers with other settings"),
        ("a.jsonl", '{"id": 1}', "is not a file of answers"),  # without a line break at its end
        ("a.csv", "a,b", "is not a file of answers"),
        ("a.txt", "", "must end in .jsonl or .csv"),
    ],
)
def test_a_file_of_something_else_is_not_overwritten(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        AnswerFile(str(tmp_path / name)).resume("s")
    assert (tmp_path / name).read_text() == content
