"""Write and read the checkpoints of a training run; a kill at any moment leaves only complete ones."""

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import ExportableState

from tinyvid.checkpoints import native
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, raised_as
from tinyvid.models.adapters import is_quantized
from tinyvid.models.weights import few
from tinyvid.outputs import share
from tinyvid.training import runs
from tinyvid.training.options import TrainOptions
from tinyvid.training.runs import PARTIAL, TRAINED
from tinyvid.training.sharding import assign, whole_weights
from tinyvid.training.trainable import PartOptions


class SavingTrainer(Trainer):
    """A Trainer whose checkpoints ``Assistant.from_pretrained`` reads and an exact resume can use."""

    loaded: Loaded
    options: TrainOptions
    run_dir: Path
    optimizer: Any  # attributes of the Trainer
    control: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint to a temporary folder and rename it, so a kill leaves no incomplete checkpoint.

        Raises:
            CheckpointError: It cannot be written; older checkpoints stay.
        """
        final = self.run_dir / f"checkpoint-{self.state.global_step}"
        unfinished = self.run_dir / f"{PARTIAL}{final.name}"
        advice = "free disk space or correct the permissions, then continue with resume=true"
        try:
            with raised_as(CheckpointError, f"{final} cannot be written", advice):
                self._write_checkpoint(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _write_checkpoint(self, unfinished: Path, final: Path) -> None:
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._save(str(unfinished))
        self._save_optimizer_and_scheduler(str(unfinished))
        self._save_scaler(str(unfinished))
        self._save_rng_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = self.run_dir / f"checkpoint-{self.state.best_global_step}"
            if best.is_dir() or best == final:
                self.state.best_model_checkpoint = str(best)
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.save_to_json(str(unfinished / runs.STATE))
            share(unfinished)
            runs.put_in_place(unfinished, final)
            runs.remove_old(self.run_dir, keep=self.options.keep, best=best)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write a checkpoint for ``Assistant.from_pretrained``, and the trained weights for resuming."""
        folder = Path(output_dir or self.run_dir)
        with whole_weights(self.loaded.model):
            if self.args.should_save:
                native.write(self.loaded, folder)
                trained = {k: p.detach() for k, p in self.loaded.model.named_parameters() if p.requires_grad}
                save_file({k: p.cpu().contiguous() for k, p in trained.items()}, folder / TRAINED)

    def save_result(self, path: Path) -> None:
        """Write the trained model; after early stopping, the best one. All processes must call this."""
        best = self.run_dir / f"checkpoint-{self.state.best_global_step}"
        if self.options.early_stopping is not None and best.is_dir():
            self._load_from_checkpoint(str(best))
        with whole_weights(self.loaded.model):
            if self.args.should_save:
                native.save(self.loaded, path)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer would write the whole model again.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.loaded.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the trained weights of a checkpoint in full precision.

        Raises:
            CheckpointError: The recipe does not train the same weights as the checkpoint.
        """
        file = Path(resume_from_checkpoint) / TRAINED
        with _readable(file.parent):
            tensors = load_file(file)
        trained = {k: p for k, p in self.loaded.model.named_parameters() if p.requires_grad}
        if tensors.keys() != trained.keys():
            raise CheckpointError(
                f"{file} does not match the weights that this recipe trains: missing "
                f"{few(trained.keys() - tensors.keys())}, unexpected {few(tensors.keys() - trained.keys())}; resume "
                "with the recipe of the run"
            )
        for key, parameter in trained.items():
            assign(parameter, tensors[key])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)


def _readable(checkpoint: str | Path | None) -> AbstractContextManager[None]:
    """Raise errors of reading a checkpoint as CheckpointError."""
    folder = Path(checkpoint or "")
    return raised_as(CheckpointError, f"{folder} is damaged", runs.without(folder))


def stored_parts(loaded: Loaded, parts: Mapping[str, PartOptions]) -> frozenset[str]:
    """Return the parts whose weights a checkpoint of the run must store: fully trained, or not available elsewhere.

    Raises:
        CheckpointError: Such a part is quantized, so it cannot be written.
    """
    stored = {
        part
        for part in native.PARTS
        if parts[part].train == "full" or (part in loaded.stored and not Path(loaded.groups[part]["path"]).is_dir())
    }
    if "llm" in stored and is_quantized(loaded.model.llm):
        raise CheckpointError(
            "the LLM is quantized, and no directory contains its weights in tinyvid's layout; first write them with "
            "'python eval.py ckpt=... convert_to=DIR', then train with ckpt=DIR"
        )
    return frozenset(stored)
