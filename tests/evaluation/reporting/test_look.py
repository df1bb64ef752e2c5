"""The look report: verdicts, sentences and tables from given outcomes."""

import json
import re

import pytest

from tinyvid import Item, Message, Outcome, Sample
from tinyvid.evaluation.reporting.look import guessing, summarize_look, verdict, write_look

VIDEOS, PER_VIDEO = 40, 4
SETTINGS = {"benchmark": "made", "ckpt": "DIR", "score": "reply", "left_out": {"without a video": 2, "not asked": 0}}


def made(right, *, videos=VIDEOS, per_video=PER_VIDEO, status="answered"):
    """Return items, half of them of the family ``still``, and their outcomes: ``right(video, number)`` or not."""
    items, outcomes = [], {}
    for video in range(videos):
        for number in range(per_video):
            name, groups = f"{video}-{number}", {"family": "still" if number % 2 else "motion"}
            options = {"A": "left", "B": "right"}
            sample = Sample([Message("user", "Q?")], video=f"{video}.mp4", id=name)
            items.append(Item(name, sample, answer="A", options=options, groups=groups))
            value = float(right(video, number))
            outcomes[name] = Outcome(
                name, status, value, prediction="A" if value else "B", answer="A", groups=groups, video=f"{video}.mp4"
            )
    return items, outcomes


def often(video, number):
    """Be right in 9 of 10 cases, spread over videos and families."""
    return (3 * video + 7 * number) % 10 > 0


def look(controls, before=None, clip=often, **options):
    items, outcomes = made(clip, **options)
    found = {name: made(right, **options)[1] for name, right in controls.items()}
    earlier = None if before is None else made(before, **options)[1]
    return summarize_look(items, outcomes, found, earlier, settings=SETTINGS)


def test_each_finding_is_a_sentence():
    data = look(
        {
            "black": lambda video, number: (video + number) % 3 == 0,  # a third is right
            "middle": lambda v, n: (often(v, n) and (5 * v + n) % 16 > 0) or (v + 3 * n) % 20 == 0,  # fewer or more
            "shuffled": often,  # the same
            "reversed": lambda video, number: True,  # better than the clip
        }
    )
    black, middle, shuffled, reverse = (text for text in data["findings"] if " groups of " not in text)
    assert re.fullmatch(r"The model uses the video: black frames cost 56\.\d \(\d\d\.\d to 6\d\.\d\) points\.", black)
    assert middle.startswith("It is not decided whether the model uses more than one frame: copies of the middle frame")
    assert shuffled == (
        "The model does not use the order of frames: shuffled frames cost at most 2.3 points (100.0 % of the answers "
        "stay the same)."
    )
    assert reverse.startswith("The accuracy is higher with reversed frames than with the clip: -10.0 (")


def test_a_finding_of_a_group_names_it():
    data = look({"shuffled": lambda video, number: often(video, number) and (number % 2 or video % 4 == 0)})
    overall, motion, still = data["rows"]
    assert (overall["kind"], motion["name"], still["name"]) == ("", "motion", "still")
    assert motion["controls"]["shuffled"]["alpha"] == pytest.approx(0.025), "two groups share 5 %"
    assert [verdict(row["controls"]["shuffled"]) for row in data["rows"]] == ["lower", "lower", "open"]
    assert data["findings"][1:] == ["Shuffled frames cost points in groups of family 1 of 2 (motion 70.0)."]


@pytest.mark.parametrize(
    ("videos", "says"), [(9, "There are 9 videos, and a finding needs 10"), (10, "The model uses")]
)
def test_few_videos_give_no_finding(videos, says):
    data = look({"black": lambda video, number: False}, clip=lambda video, number: True, videos=videos)
    assert data["findings"][0].startswith(says)
    assert verdict(data["rows"][0]["controls"]["black"]) == ("open" if videos < 10 else "lower")


def test_few_questions_without_a_difference_prove_nothing():
    data = look({"shuffled": often}, videos=12, per_video=2)
    assert data["rows"][0]["controls"]["shuffled"]["lost"]["high"] == 0
    assert "It is not decided whether the model uses the order of frames" in data["findings"][0]


def test_what_a_fine_tune_lost_is_named():
    data = look({}, clip=lambda video, number: number % 2 == 0 or video % 4 == 0, before=often)
    assert re.fullmatch(
        r"The accuracy fell since the earlier run: -2\d\.\d \(-3\d\.\d to -\d\d?\.\d\) points\.", data["findings"][0]
    )
    assert data["findings"][1] == "The accuracy fell in groups of family 1 of 2 (still -65.0)."
    assert look({}, before=often)["findings"] == ["The accuracy fell by at most 2.3 points since the earlier run."]


def test_guessing_is_stated_and_compared():
    data = look({"black": often}, clip=lambda video, number: (video + number) % 2)
    assert data["findings"][0].startswith("With the clip, the accuracy of 50.0 % (42.3 % to 57.7 %) is not above guess")
    ask = Sample([Message("user", "Q?")])
    mixed = [Item(str(i), ask, "yes_no", answer) for i, answer in enumerate(["yes", "yes", "Yes", "no"])]
    mixed += [Item("c", ask, "choice", "A", options={"A": "1", "B": "2", "C": "3", "D": "4"})]
    assert guessing(mixed) == pytest.approx((3 + 0.25) / 5)
    assert guessing([*mixed, Item("t", ask, "span", "<time:1> to <time:2>")]) is None


def test_replies_that_cannot_be_read_suggest_likelihoods():
    data = look({"black": often}, status="unparsed")
    assert (
        "100.0 % of the replies could not be parsed; score=likelihood compares the options instead." in data["findings"]
    )


@pytest.mark.slow
def test_the_files(tmp_path):
    data = look({"black": lambda video, number: video % 2, "other": lambda video, number: number % 2}, before=often)
    write_look(tmp_path, data)
    assert json.loads((tmp_path / "look.json").read_text()) == data
    text = (tmp_path / "look.md").read_text()
    assert text.startswith("# Does it look? made: 160 items about 40 videos\n\n- The model uses the video")
    rows = [line for line in text.splitlines() if line.startswith(("| **overall**", "| family: "))]
    assert len(rows) == 6
    assert all(row.count("|") in (9, 6) for row in rows)
    assert re.search(r"\| \*\*overall\*\* \| 160 \| 50.0 \| 90.0 \| 84.\d to 93.\d \| 50.0 \| 50.0 \| 90.0 \|", text)
    assert "Left out: 2 without a video." in text
    assert (tmp_path / "look.png").stat().st_size > 10_000
