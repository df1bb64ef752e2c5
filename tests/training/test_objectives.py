"""Objectives: the default changes nothing, and another objective is used for examples and losses."""

from dataclasses import replace

import pytest
import torch

from tests.runs import load_program, settings, write_rows
from tinyvid import DataError, Message, Sample
from tinyvid.training import NextTokenObjective, TrainingData, VideoTrainer
from tinyvid.training.log import read_metrics

pytestmark = pytest.mark.slow

program = load_program("train")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


def say_no(row):
    return replace(row, messages=[*row.messages[:-1], Message("assistant", "no")])


class DoubledNo(NextTokenObjective):
    """Learn to reply "no", at twice the loss."""

    def example(self, processor, row):
        return super().example(processor, say_no(row))

    def __call__(self, model, batch):
        output = super().__call__(model, batch)
        return replace(output, loss=output.loss * 2)


class OnlyNo:
    """Return rows whose replies are all "no"."""

    def __init__(self, rows):
        self.rows = rows
        self.where, self.size = rows.where, rows.size

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return say_no(self.rows[index])


def train(models, path, run_dir, change=lambda rows: rows, **options):
    """Train as the program does, and return the losses, including an evaluation before the first step."""
    composed = settings(models, path, "recipe.lr=0.01")
    run = program.Settings.read(composed)
    program.set_seed(run.options.seed)
    loaded = program.load(composed)
    program.trainable.apply(loaded.model, run.parts, run.peft, lr=run.options.lr)
    data = TrainingData(change(run.rows), loaded.processor, run.policy, **options)
    trainer = VideoTrainer(
        loaded, run.options, run.parts, run_dir=run_dir, dtype=torch.float32, train=data, evaluate_on=data
    )
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.train()
    return [record["loss"] for record in read_metrics(run_dir) if "loss" in record], evaluated


def test_the_default_is_to_predict_the_next_token(models, rows, tmp_path):
    program.train(settings(models, rows, "recipe.lr=0.01"), tmp_path / "program")
    expected = [record["loss"] for record in read_metrics(tmp_path / "program") if "loss" in record]
    implicit, _ = train(models, rows, tmp_path / "implicit")
    explicit, _ = train(models, rows, tmp_path / "explicit", objective=NextTokenObjective())
    assert len(expected) == 4
    assert implicit == explicit == expected


def test_another_objective_makes_the_examples_and_the_loss(models, rows, tmp_path):
    plain, plain_evaluation = train(models, rows, tmp_path / "plain", OnlyNo)
    doubled, doubled_evaluation = train(models, rows, tmp_path / "doubled", objective=DoubledNo())
    assert doubled[0] == 2 * plain[0]
    assert doubled_evaluation == pytest.approx(2 * plain_evaluation)


def test_a_row_without_a_reply_has_no_next_token_to_learn(processor):
    with pytest.raises(DataError, match="has no reply to learn; add an assistant turn"):
        NextTokenObjective().example(processor, Sample([Message("user", "Q")]))
