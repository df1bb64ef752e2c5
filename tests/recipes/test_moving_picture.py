"""The moving picture of the README shows real replies of the default model."""

import json
import sys

import pytest
from PIL import Image, ImageChops

from recipes.shapes import moving_picture
from recipes.shapes.moving_picture import DESCRIPTION, HEIGHT, OPTIONS, PICTURE, SHOWN, WIDTH, Talk, draw
from tinyvid.worlds.shapes import encode, plan_clip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def said(shipped, tmp_path_factory):
    """The question, the reply, and whether it is right, for each clip."""
    talks = []
    for clip, numbers in SHOWN:
        plan = plan_clip(OPTIONS, clip)
        path = tmp_path_factory.mktemp("clip") / "clip.mp4"
        path.write_bytes(encode(plan))
        questions = [plan.questions[number] for number in numbers]
        replies = [shipped.ask(str(path), question.text) for question in questions]
        talks.append([[q.text, reply, reply == q.reply] for q, reply in zip(questions, replies, strict=True)])
    return talks


def turns_of(path):
    return json.loads(Image.open(path).getexif()[DESCRIPTION])


def test_the_picture_of_the_readme_shows_the_current_replies(said):
    assert turns_of(PICTURE) == [turn for talk in said for turn in talk]
    assert PICTURE.stat().st_size <= 2**20


def test_the_program_asks_the_model(said, tmp_path, monkeypatch, capsys):
    out = tmp_path / "images" / "small.webp"
    monkeypatch.setattr(sys, "argv", ["moving_picture", "--out", str(out), "--clips", "1"])
    moving_picture.main()
    picture = Image.open(out)
    assert (picture.size, picture.n_frames) == ((WIDTH, HEIGHT), 80)
    assert turns_of(out) == said[0]
    assert capsys.readouterr().out.startswith("{} {}\n".format(*said[0][0]))


def test_replies_are_drawn_and_wrong_ones_are_marked():
    frames = [Image.new("RGB", (8, 8))] * 10
    pictures = [draw(Talk(frames, [("Q?", *end)]), 19) for end in (("up", True), ("down", True), ("up", False))]
    assert all(ImageChops.difference(pictures[0], other).getbbox() for other in pictures[1:])
