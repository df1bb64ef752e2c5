"""Train with transformers' Trainer: batches in a fixed order, metrics, and checkpoints that survive a kill.

``options`` defines the recipe, ``objectives`` computes examples and losses, ``data`` turns rows into batches,
``trainer`` extends the Trainer, and ``log`` writes the metrics of a run.
"""

from tinyvid.training.data import EpochOrder, TrainingData
from tinyvid.training.objectives import NextTokenObjective, Objective
from tinyvid.training.options import DataPolicy, TrainOptions, read_recipe
from tinyvid.training.trainer import VideoTrainer

__all__ = [
    "DataPolicy",
    "EpochOrder",
    "NextTokenObjective",
    "Objective",
    "TrainOptions",
    "TrainingData",
    "VideoTrainer",
    "read_recipe",
]
