"""What tinyvid adds to transformers' Trainer: its own batches, what is logged, and checkpoints that survive a kill.

``options`` is the recipe as a configuration states it, ``objectives`` says what is learned, ``data`` turns rows into
batches in a fixed order, ``trainer`` is the engine, ``log`` writes the run's records.
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
