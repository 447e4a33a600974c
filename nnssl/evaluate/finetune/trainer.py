"""Fine-tuning for stock `nnUNetv2_train`, found through `nnUNet_extTrainer`: one class a schedule, numbers outside.

Network, loss, augmentation, patch sampling, `-pretrained_weights`, validation and prediction stay nnU-Net's. What
differs: the schedule (finetune_schedule.py), which moves the learning rate every step; an encoder that may rest; and
a seed, which nnU-Net has none of. A finished training is predicted with by stock nnU-Net without `nnUNet_extTrainer`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnssl.atomic import whole_file
from nnssl.errors import PlanError, RecipeError
from nnssl.evaluate.finetune.schedule import FinetuneSchedule, given
from nnssl.evaluate.settings import changed

SETTINGS = "finetuning.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_MOMENTUM = 0.99  # nnU-Net's
_SAVE_EVERY = 50  # epochs, nnU-Net's
_SAVES = 20  # at least so many checkpoints a training, however short


class _Scheduler:
    """What nnU-Net calls once an epoch; the rate itself moves every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: FinetuneSchedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch's first iteration."""
        self.at(epoch * self.schedule.iterations_per_epoch)

    def at(self, iteration: int) -> None:
        """Set the rate of an iteration, counted from 0 over the whole training."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(iteration)


class NnsslFinetuneWarmup(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net ships no types
    """Everything learns: warm-up to 1e-3, then poly. The other schedules derive from it."""

    DEFAULTS: ClassVar[FinetuneSchedule] = FinetuneSchedule()
    ANY_SCHEDULE: ClassVar[bool] = False  # folders are named after the class, so a class stands for its schedule

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        continued = bool(plans.get("continue_training"))  # nnU-Net takes it out
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.schedule = self._settle(continued)
        self.num_epochs = self.schedule.epochs
        self.num_iterations_per_epoch = self.schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.schedule.validation_iterations
        self.initial_lr, self.weight_decay = self.schedule.peak_lr, self.schedule.weight_decay
        self.save_every: int = min(_SAVE_EVERY, max(1, self.num_epochs // _SAVES))
        self.iteration = 0
        if self.schedule.threads:
            torch.set_num_threads(self.schedule.threads)
        self.seed()

    def _settle(self, continued: bool) -> FinetuneSchedule:
        """The class's defaults with what the user gave; a continued run keeps its own."""
        values = given()
        schedule = changed(self.DEFAULTS, values)
        if schedule.schedule != self.DEFAULTS.schedule and not self.ANY_SCHEDULE:
            raise RecipeError(
                f"{type(self).__name__} trains with the schedule {self.DEFAULTS.schedule}, not {schedule.schedule}. "
                f"Choose the trainer of that schedule, or leave 'schedule' away."
            )
        file = Path(self.output_folder) / SETTINGS
        if not continued or not file.is_file():
            return schedule
        kept = changed(self.DEFAULTS, json.loads(file.read_text()))
        differing = [key for key in values if getattr(schedule, key) != getattr(kept, key)]
        if differing:
            key = differing[0]
            raise RecipeError(
                f"The training in {self.output_folder} runs with {key}={getattr(kept, key)} and cannot go on with "
                f"{getattr(schedule, key)}. Leave {key} away to continue it."
            )
        return kept

    def seed(self) -> None:
        """Seed all three generators: before the network is built, and again before the first patch is drawn, so that
        loading weights in between changes nothing else. A continued run must not draw its first patches again."""
        seed = self.schedule.seed + self.iteration
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def encoder(self) -> nn.Module:
        """The part that may rest.

        Raises:
            PlanError: the network has no `encoder`.
        """
        network: Any = self.network
        for wrapper in ("module", "_orig_mod"):  # DistributedDataParallel, torch.compile
            network = getattr(network, wrapper, network)
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise PlanError(
                f"The schedule {self.schedule.schedule} freezes `network.encoder`, which {type(network).__name__} does "
                f"not have. Use the schedule warmup."
            )
        return encoder

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, _Scheduler]:
        """The schedule's optimizer, with the encoder at rest where the schedule begins so.

        Raises:
            RecipeError: data-parallel training of a schedule with two phases.
            PlanError: the network has no `encoder` to rest.
        """
        if self.is_ddp and self.schedule.first_phase:
            raise RecipeError(
                f"{self.schedule.schedule} lets the encoder learn later, which torch's data-parallel wrapper cannot "
                f"follow. Use one GPU, or the schedule warmup or frozen."
            )
        self._enter(epoch=0)  # before data-parallel wrapping, which looks at what learns
        parameters = self.network.parameters()
        optimizer: torch.optim.Optimizer
        if self.schedule.optimizer == "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=self.initial_lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters, lr=self.initial_lr, weight_decay=self.weight_decay, momentum=_MOMENTUM, nesterov=True
            )
        return optimizer, _Scheduler(optimizer, self.schedule)

    def _enter(self, *, epoch: int) -> None:
        """Let the encoder rest or learn. A parameter without gradient is left out by the optimizer, decay included."""
        if self.schedule.schedule == "warmup":
            return
        rests, encoder = self.schedule.encoder_rests(epoch), self.encoder()
        encoder.requires_grad_(not rests)
        if rests:
            encoder.eval()  # running statistics of a batch normalisation rest as well

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """nnU-Net's, but no axis is mirrored, in training or inference, where the schedule says so."""
        rotation, dummy_2d, initial_patch_size, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.schedule.mirroring:
            axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, axes

    def on_train_start(self) -> None:
        """Seed, begin, and write the schedule beside the weights."""
        self.seed()
        super().on_train_start()
        if self.local_rank == 0:
            self.schedule.save(Path(self.output_folder) / SETTINGS)

    def on_train_epoch_start(self) -> None:
        """Let the encoder rest or learn, as the schedule has it for this epoch."""
        super().on_train_epoch_start()
        self._enter(epoch=self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, at the learning rate of this very iteration."""
        self.lr_scheduler.at(self.iteration)
        self.iteration += 1
        outputs: dict[str, Any] = super().train_step(batch)
        return outputs

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """nnU-Net's; iterations go on from the whole epochs done."""
        super().load_checkpoint(filename_or_checkpoint)
        self.iteration = self.current_epoch * self.schedule.iterations_per_epoch

    def on_train_end(self) -> None:
        """End, and name the stock trainer in the checkpoints: `nnUNetv2_predict` needs no class of ours then."""
        super().on_train_end()
        unchanged = type(self).build_network_architecture is nnUNetTrainer.build_network_architecture
        if self.local_rank == 0 and unchanged:
            for name in CHECKPOINTS:
                name_stock_trainer(Path(self.output_folder) / name)


class NnsslFinetuneSawtooth(NnsslFinetuneWarmup):
    """First the decoder alone, then everything, each with a warm-up."""

    DEFAULTS = FinetuneSchedule(schedule="sawtooth")


class NnsslFinetuneFrozenThenThawed(NnsslFinetuneWarmup):
    """The encoder rests for the first epochs."""

    DEFAULTS = FinetuneSchedule(schedule="frozen_then_thawed")


class NnsslFinetuneFrozen(NnsslFinetuneWarmup):
    """The encoder never learns."""

    DEFAULTS = FinetuneSchedule(schedule="frozen")


def name_stock_trainer(path: Path) -> None:
    """Let a checkpoint name `nnUNetTrainer`, whose network it holds: then prediction needs no `nnUNet_extTrainer`."""
    if not path.is_file():
        return
    # written by this process a moment ago; nnU-Net's own files hold numpy scalars, which weights_only refuses
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint["trainer_name"] = nnUNetTrainer.__name__
    with whole_file(path) as temporary:
        torch.save(checkpoint, temporary)
