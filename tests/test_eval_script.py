"""``python eval.py``: the command on real videos, unusual values, help, and error messages."""

import io
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from tests.clips import real_video
from tests.goldens import TINYLLAVA_VIDEO
from tests.runs import load_script, python
from tinyvid import Assistant, Message, Sample, Video, compose
from tinyvid.answers import AnswerFile
from tinyvid.build import REGISTRIES
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.command_line import CommandLine
from tinyvid.errors import printable
from tinyvid.video.open_video import open_video

ROOT = Path(__file__).parents[1]
CKPT = TINYLLAVA_VIDEO / "group_qwen2"
CLIP = ROOT / "examples" / "clip.mp4"


run = partial(python, ROOT / "eval.py")


def run_alone(*arguments):
    """Run the program in a new process, where libraries are imported again and print their messages."""
    command = [sys.executable, str(ROOT / "eval.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_asks_a_checkpoint_about_a_real_video(tmp_path):
    bikes = real_video("bikes.mp4")
    done = run(f"ckpt={CKPT}", f"video={bikes}", "question=What moves?", "max_new_tokens=8", "device=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = Assistant.from_pretrained(CKPT, device="cpu").ask(bikes, "What moves?", max_new_tokens=8)
    assert done.stdout.rstrip("\n") == expected
    assert list(tmp_path.iterdir()) == [], "asking a question leaves nothing behind"


@pytest.mark.slow
def test_the_first_command_prints_only_the_answer():
    """In a clean environment, the first command prints only the five lines of the README."""
    kept = ("PATH", "HOME", "PYTHONPATH", "SYSTEMROOT")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    command = [sys.executable, str(ROOT / "eval.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.search(r"```text\n(video: .*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert done.stdout == shown[1]


@pytest.mark.slow
def test_saving_a_model_and_cleaning_up_spaces_print_nothing(tmp_path):
    source, out = TINYLLAVA_VIDEO / "group_phi", tmp_path / "converted"
    written = run_alone(f"ckpt={source}", f"convert_to={out}")
    answered = run_alone(f"ckpt={out}", "question=Q", "max_new_tokens=2", "device=cpu")
    assert written.returncode == answered.returncode == 0, written.stderr + answered.stderr
    assert all(line.startswith(str(source)) for line in written.stderr.splitlines()), written.stderr
    assert answered.stderr == ""


AWKWARD = (
    "What's left?",
    'left, "or" right?',
    "Is it (a) or [b] or {c}?",
    "costs ${5} = $5, 100%?",
    "视频里有什么？",
    "back\\slash\\",
    "key=value, x:y",
    "~!@#^&*|;<>",
)


@pytest.mark.parametrize("question", AWKWARD)
def test_a_question_reaches_the_model_unchanged(question):
    line = CommandLine.parse([f"question={question}", "sampler.num_frames=4", "video=my clip (1), a=b.mp4"])
    config = compose(line.overrides)
    assert (config.question, config.video) == (question, "my clip (1), a=b.mp4")


@pytest.mark.slow
def test_an_awkward_file_name_and_a_stream_work_end_to_end(tmp_path):
    name = tmp_path / "it's my clip (1), [a]=b ü.mp4"
    name.write_bytes(CLIP.read_bytes())
    done = run(
        f"ckpt={CKPT}",
        f"video={name}",
        f"question={' '.join(AWKWARD)}",
        "sampler.num_frames=2",
        "stream=true",
        "max_new_tokens=4",
        "end=2.5",
        "llm.attention=eager",
    )
    assert done.returncode == 2
    assert "llm.attention is fixed by ckpt=" in done.stderr
    done = run(
        f"ckpt={CKPT}",
        f"video={name}",
        f"question={AWKWARD[0]}",
        "sampler.num_frames=2",
        "stream=true",
        "max_new_tokens=4",
        "end=2.5",
        "temperature=1.5",
        "seed=1",
    )
    assert done.returncode == 0, done.stderr
    assistant = Assistant.from_pretrained(CKPT, sampler={"num_frames": 2})
    sampled = {"max_new_tokens": 4, "temperature": 1.5, "seed": 1}
    # The terminal gets no control characters, which this random model likes to write.
    assert done.stdout.rstrip("\n") == printable(assistant.ask(name, AWKWARD[0], end=2.5, **sampled))


@pytest.mark.slow
def test_converts_and_asks_the_result(tmp_path):
    out = tmp_path / "converted"
    done = run(f"ckpt={CKPT}", f"convert_to={out}", "sampler.num_frames=4")
    assert done.returncode == 0, done.stderr
    assert (out / "tinyvid.yaml").is_file()
    done = run(f"ckpt={out}", f"image={_png(tmp_path)}", "question=What is it?", "max_new_tokens=4")
    assert done.returncode == 0, done.stderr


def _png(folder):
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.slow
def test_shows_the_composed_configuration():
    done = run("--cfg", "job", "connector=group", "connector.num_queries=256", "question=Is it (a)?")
    assert done.returncode == 0, done.stderr
    assert "num_queries: 256" in done.stdout


@pytest.mark.slow
def test_shows_what_runs():
    done = run("--cfg", "job", "--resolve")
    shown = yaml.safe_load(done.stdout)
    assert (shown["ckpt"], {kind: shown[kind] for kind in REGISTRIES if kind in shown}) == (
        "default",
        Assistant.from_pretrained(device="meta").config,
    )
    done = run("--cfg", "job", f"ckpt={CKPT}", "sampler.num_frames=4")
    shown = yaml.safe_load(done.stdout)
    assert (shown["ckpt"], shown["sampler"]) == (str(CKPT), {"num_frames": 4})
    assert not {"llm", "vision_tower", "connector", "template"} & shown.keys()


@pytest.mark.slow
def test_help_lists_the_choices_and_loads_no_optional_library():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['eval.py', '--help']\n"
        "try:\n    runpy.run_path('eval.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "loaded = {'timm', 'open_clip', 'decord', 'bitsandbytes', 'peft', 'av'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for word in ("siglip_so400m_384", "group", "qwen2_5_3b", "chatml", "sampler", "question=", "convert_to=", "stream"):
        assert word in done.stdout, word
    assert not [line for line in done.stdout.splitlines() if line.startswith(("recipe:", "peft:", "data:"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"ckpt={CKPT}",), "ConfigError: there is no question to answer; set question="),
        ((f"video={CLIP}",), "ConfigError: there is no question to answer; set question="),
        (("connector=mlp",), "ConfigError: there is no question to answer; set question="),
        (("question=Q", "model=tinyvid_shapes", "llm=phi2"), "llm is fixed by the checkpoint of the model preset"),
        (("question=Q", "conector=group"), "Did you mean 'connector'"),
        (("question=Q", "connector=grup"), "Did you mean 'group'"),
        (("question=Q", f"ckpt={CKPT}", "connector=mlp"), "connector is fixed by ckpt="),
        (("question=Q", f"ckpt={CKPT}", "video=nowhere.mp4"), "VideoError: "),
        (("question=Q", f"ckpt={CKPT}", f"video={CLIP}", "start=9", "end=10"), "VideoError: "),
        (("question=Q", f"ckpt={CKPT}", f"video={CLIP}", "image=x.png"), "video= and image= are both set"),
        (("question=Q", f"ckpt={CKPT}", f"image={CLIP}"), "is not an image file (.bmp, .jpeg"),
        (("question=Q", f"ckpt={CKPT}", "start=1"), "need video="),
        (("question=Q", "ckpt=nowhere"), "CheckpointError: there is no directory 'nowhere'"),
        (("convert_to=out",), "convert_to= needs ckpt="),
        ((f"ckpt={CKPT}", "convert_to="), "convert_to= is empty"),
        (("question=Q", "ckpt="), "CheckpointError: the path of the checkpoint is empty"),
        (("question=Q", f"ckpt={CKPT}", "video="), "VideoError: the path of a video is empty"),
        (("question=Q", f"ckpt={CKPT}", f"video={CLIP}", "start=abc"), "start='abc' must be a number"),
        (("question=Q", f"ckpt={CKPT}", "max_new_tokens=abc"), "max_new_tokens='abc' must be a whole number"),
        (("question=Q", f"ckpt={CKPT}", "temperature=-1"), "temperature=-1 must be a number of at least 0"),
        (("benchmark=shapes", "top_p=2"), "top_p=2 must be a number above 0 and at most 1"),
        (("question=Q", f"ckpt={CKPT}", "video=*.none"), "ConfigError: video='*.none' matches no file"),
        (("question=Q", f"ckpt={CKPT}", "questions=a.txt"), "question= and questions= are both set"),
        (("question=Q", f"ckpt={CKPT}", "out=a.jsonl", "stream=true"), "stream= needs a single video and question"),
        (("question=Q", f"ckpt={CKPT}", "out=a.txt"), "out='a.txt' must end in .jsonl or .csv"),
        (("question=Q", f"ckpt={CKPT}", "evidence=a.png"), "evidence= needs video= or image="),
        (("question=Q", f"video={CLIP}", "evidence=a.png", "chat=true"), "needs a single question; remove chat="),
        (("question=Q", f"video={CLIP}", "evidence=a.jpg"), "evidence='a.jpg' must end in .png"),
        (("question=Q", f"video={CLIP}", "evidence=no/a.png"), "evidence='no/a.png': its folder does not exist"),
        (("question=Q", f"ckpt={CKPT}", "on_error=skip"), "on_error= needs several videos or questions, or out="),
        (("question=Q", f"ckpt={CKPT}", "stream=maybe"), "stream='maybe' must be true or false"),
        (("question=\udcff", f"ckpt={CKPT}"), "message text contains invalid Unicode: '\\udcff' at character 0"),
        (("question=Q", f"ckpt={CKPT}", "device=cuda:9"), "ConfigError: device='cuda:9' is not available"),
    ],
)
def test_a_mistake_prints_one_line_and_exits_with_2(arguments, message, monkeypatch, capsys):
    """Runs in this process, because starting a new one is slow."""
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        load_script().main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_user_error_prints_one_line_on_the_terminal():
    done = run("question=Q", f"ckpt={CKPT}", "device=cuda:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("ConfigError: device='cuda:9' is not available")
    assert "Traceback" not in done.stderr


def test_an_error_in_the_video_is_reported_before_the_model_loads(monkeypatch, capsys):
    script = load_script()
    monkeypatch.setattr(script, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(sys, "argv", ["eval.py", "question=Q", f"ckpt={CKPT}", f"video={CLIP}", "start=100"])
    with pytest.raises(SystemExit):
        script.main()
    assert "VideoError: " in capsys.readouterr().err


def ask(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval.py", f"ckpt={CKPT}", "device=cpu", "max_new_tokens=3", *arguments])
    script.main()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_many_clips_and_questions_are_answered_once_each(kind, tmp_path, monkeypatch, capsys):
    script, out, questions = load_script(), tmp_path / f"answers.{kind}", tmp_path / "questions.txt"
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "clip.mp4").write_bytes(CLIP.read_bytes())
    questions.write_text("What moves?\nWhere?\n")
    arguments = [f"video={tmp_path}/*.mp4", f"questions={questions}", f"out={out}", "sampler.num_frames=2"]
    with pytest.raises(SystemExit) as end:
        ask(script, monkeypatch, *arguments)
    assert (end.value.code, "VideoError: " in capsys.readouterr().err) == (2, True)
    ask(script, monkeypatch, *arguments, "on_error=skip", "batch_size=3")
    printed = capsys.readouterr()
    assert f"Wrote {out} (answers: 2 new, 0 earlier; errors: 2)" in printed.out
    assert printed.err.count("broken.mp4") == 2
    rows = out.read_text().splitlines()
    assert (len(rows) - (kind == "csv"), rows[-1].count("clip.mp4"), rows[-1].count("Where?")) == (4, 1, 1)
    assistant = Assistant.from_pretrained(CKPT, device="cpu", sampler={"num_frames": 2})
    (tmp_path / "broken.mp4").write_bytes(CLIP.read_bytes())
    ask(script, monkeypatch, *arguments, "on_error=skip")
    assert "answers: 2 new, 2 earlier; errors: 0" in capsys.readouterr().out
    kept = AnswerFile(str(out)).resume(AnswerFile(str(out))._read(out.read_text())[0].settings)
    assert [(Path(answer.video).name, answer.question) for answer in kept] == [
        *(("clip.mp4", question) for question in ("What moves?", "Where?")),
        *(("broken.mp4", question) for question in ("What moves?", "Where?")),
    ]
    assert kept[1].reply == assistant.ask(CLIP, "Where?", max_new_tokens=3)
    with pytest.raises(SystemExit):
        ask(script, monkeypatch, *arguments, "temperature=1.5")
    assert "contains answers with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_the_frames_that_a_reply_cites_are_drawn(tmp_path, monkeypatch, capsys):
    script, target = load_script(), tmp_path / "what, it = [saw].png"
    with pytest.raises(SystemExit) as end:
        ask(script, monkeypatch, f"video={CLIP}", "question=What moves?", f"evidence={target}", "sampler.num_frames=4")
    printed = capsys.readouterr()
    assert (end.value.code, target.exists(), bool(printed.out.strip())) == (2, False, True)
    assert f"DataError: evidence={target} was not written: the reply cites no frame and no time" in printed.err
    assistant = Assistant.from_pretrained(CKPT, device="cpu", sampler={"num_frames": 4})
    config = compose([f"evidence='{target}'"])
    sample = Sample([Message("user", "Q?")], video=real_video("bikes.mp4"))
    script.show_evidence(assistant, sample, "In Frame 2, Frame 4 and Frame 9.", config)
    assert f"Wrote {target}: frames 2, 4 of 4; cited but not shown: 1" in capsys.readouterr().err
    assert target.stat().st_size > 10_000


@pytest.mark.slow
def test_without_a_video_the_default_model_sees_its_own_clip(monkeypatch, capsys):
    clip, question = DEFAULT_MODEL / "clip.mp4", (DEFAULT_MODEL / "question.txt").read_text().strip()
    monkeypatch.setattr(sys, "argv", ["eval.py", f"question={question}", "device=cpu"])
    load_script().main()
    printed = capsys.readouterr()
    assert printed.out.strip() == Assistant.from_pretrained(device="cpu").ask(clip, question)
    assert f"video= is not set, so the default model sees its own clip, {clip}" in printed.err


@pytest.mark.slow
def test_a_conversation_keeps_its_turns(monkeypatch, capsys):
    script = load_script()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nAnd where?\nexit\nnever asked\n"))
    ask(script, monkeypatch, f"video={CLIP}", "question=What moves?", "chat=true", "sampler.num_frames=2")
    assistant = Assistant.from_pretrained(CKPT, device="cpu", sampler={"num_frames": 2})
    turns, replies = [], []
    for question in ("What moves?", "And where?"):
        turns.append(Message("user", question))
        replies += assistant.answer([Sample(turns, video=CLIP)], max_new_tokens=3)
        turns.append(Message("assistant", replies[-1]))
    assert capsys.readouterr().out == "".join(printable(reply) + "\n" for reply in replies)


@pytest.mark.slow
def test_a_conversation_shows_seconds_and_continues_with_the_words_of_the_model(monkeypatch, capsys):
    script = load_script()
    template = {"time": "<|t{:03d}|>", "time_steps": 256}
    assistant = Assistant.from_pretrained(CKPT, device="cpu", sampler={"num_frames": 2}, template=template)
    tokens = assistant.processor.tokenizer("At <|t128|>.", add_special_tokens=False).input_ids
    prompts = []

    def generate(*, streamer, **options):
        for token in tokens:
            streamer.put(torch.tensor([token]))
        streamer.end()

    def plan(sample, **options):
        prompts.append([message.text for message in sample.messages])
        return lay_out(sample, **options)

    lay_out = assistant.processor.__call__
    monkeypatch.setattr(assistant.model.llm, "generate", generate)
    monkeypatch.setattr(type(assistant.processor), "__call__", lambda _, sample, **options: plan(sample, **options))
    monkeypatch.setattr(sys, "stdin", io.StringIO("And at <time:1>?\n"))
    script.chat(assistant, Video(str(CLIP)), ["When?"], {"max_new_tokens": 20})
    assert prompts == [["When?"], ["When?", "At <|t128|>.", "And at <time:1>?"]]
    end = open_video(Video(str(CLIP)), assistant.processor.reader).end
    assert capsys.readouterr().out == f"At {end / 2:.1f} s.\n" * 2
