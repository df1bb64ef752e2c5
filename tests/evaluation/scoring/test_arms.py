"""The arms of Chain-of-Frames, from the drawn clip to the marks of its reply."""

from dataclasses import replace

import pytest

from tests.factories import NUMBERED_FRAMES
from tinyvid import Assistant, compose
from tinyvid.evaluation.scoring.references import answer_part, marks
from tinyvid.types import IGNORE_INDEX
from tinyvid.worlds.shapes.dataset import ShapesDataset

SAMPLERS = ([], ["sampler=fps", "sampler.fps=4"], ["sampler=midpoint", "sampler.num_frames=24"])


@pytest.fixture(scope="module", params=SAMPLERS, ids=["uniform", "fps", "midpoint"])
def processor(request):
    return Assistant.from_config(compose([*NUMBERED_FRAMES, *request.param]), device="meta").processor


def samples(arm):
    options = {"families": ["order_between", "event", "pass"], "min_events": 2, "traces": arm}
    data = ShapesDataset(clips=5, questions=3, **options)
    return [data[number] for number in range(len(data))]


def laid_out(processor, sample):
    """Return the example of a sample, and its reply as evaluation stores it."""
    example = processor(sample)
    reply = processor.reply(example.input_ids[example.labels != IGNORE_INDEX])
    return example, processor.template.moments.read_frames(reply, example.timeline)


@pytest.mark.slow
def test_the_replies_of_every_arm_have_the_marks_of_their_traces(processor):
    found = {}
    cited = samples("cited")
    evidence = {sample.id: sample.meta["key_frames"] for sample in cited if "key_frames" in sample.meta}
    assert len(evidence) > 8
    for arm in ("cited", "shuffled", "text", None):
        for sample in samples(arm):
            if sample.id in evidence:
                example, reply = laid_out(processor, sample)
                found.setdefault(arm, []).append(marks(reply, evidence[sample.id], example.timeline.times))
    assert {
        (one["reference_f1"], one["reference_validity"], one.get("reference_order", 1)) for one in found["cited"]
    } == {(1, 1, 1)}
    assert {one["reference_validity"] for one in found["shuffled"]} == {1}
    mean = sum(one["reference_f1"] for one in found["shuffled"]) / len(evidence)
    assert mean == pytest.approx(sum(one["reference_f1_chance"] for one in found["shuffled"]) / len(evidence), abs=0.25)
    assert {one["references"] for one in [*found["text"], *found[None]]} == {0}


@pytest.mark.slow
def test_arms_have_the_same_questions_and_answers_and_the_prompt_of_inference(processor):
    arms = [samples(arm) for arm in ("cited", "shuffled", "text", None)]
    for same in zip(*arms, strict=True):
        prompts, answers = set(), set()
        for sample in same:
            example, reply = laid_out(processor, sample)
            asked = processor(replace(sample, messages=sample.messages[:-1])).input_ids
            assert example.input_ids[: len(asked)].tolist() == asked.tolist()
            prompts.add(tuple(asked.tolist()))
            answers.add(answer_part(reply, "exact").strip())
        assert len(prompts) == len(answers) == 1
