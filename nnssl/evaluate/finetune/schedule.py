"""How long and how a fine-tuning runs: shared by the process that plans it and nnU-Net's, without torch.

Stock `nnUNetv2_train` has no option that could carry numbers, so they travel in `NNSSL_FINETUNE`: JSON, or the name of
a JSON file. What is not given keeps the default of the trainer class.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nnssl.errors import RecipeError

VARIABLE = "NNSSL_FINETUNE"
POLY_EXPONENT = 0.9  # nnU-Net's
Name = Literal["warmup", "sawtooth", "frozen_then_thawed", "frozen"]
NAMES: tuple[Name, ...] = ("warmup", "sawtooth", "frozen_then_thawed", "frozen")
_IN_PHASES = ("sawtooth", "frozen_then_thawed")
_FIRST_PHASE = 0.05  # of the epochs; as the warm-up


@dataclass(frozen=True, kw_only=True)
class FinetuneSchedule:
    """The schedule of a fine-tuning.

    Attributes:
        schedule: "warmup": all parts learn, the rate rises linearly, then falls. "sawtooth": first the decoder alone,
            while the rate rises to its peak, then all parts as in "warmup". "frozen_then_thawed": as "warmup", but the
            encoder rests for the first epochs. "frozen": as "warmup", but the encoder never learns.
        epochs: nnU-Net's unit of logging and checkpoints.
        iterations_per_epoch: optimizer steps.
        validation_iterations: batches an epoch for nnU-Net's pseudo Dice.
        peak_lr: learning rate after the warm-up. nnU-Net's 1e-2 throws away part of what was pretrained.
        warmup: share of all iterations in which the rate rises, in [0, 1).
        frozen_epochs: epochs of the first phase, for the schedules that have one; None: 5 % of the epochs, at least 1.
        decay: after the warm-up, "poly" (nnU-Net's) or "cosine", down to 0.
        optimizer: "sgd" (Nesterov, momentum 0.99, nnU-Net's) or "adamw".
        weight_decay: the optimizer's.
        mirroring: mirror along nnU-Net's axes in training and prediction; False keeps left and right apart.
        seed: of weights, and of patches and augmentation where nnU-Net loads in this process (nnUNet_n_proc_DA=0):
            nobody can seed its workers.
        threads: of torch on the CPU; 0 leaves nnU-Net's choice, which is every core of the machine even where this
            process may use only some of them.
    """

    schedule: Name = "warmup"
    epochs: int = 1000
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    peak_lr: float = 1e-3
    warmup: float = 0.05
    frozen_epochs: int | None = None
    decay: Literal["poly", "cosine"] = "poly"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 3e-5
    mirroring: bool = True
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for key in ("epochs", "iterations_per_epoch", "validation_iterations"):
            if getattr(self, key) < 1:
                raise RecipeError(f"{key} must be at least 1; it is {getattr(self, key)}.")
        if not 0 < self.peak_lr < math.inf:
            raise RecipeError(f"peak_lr must be positive; it is {self.peak_lr}.")
        if not 0 <= self.warmup < 1:
            raise RecipeError(f"warmup is a share of the iterations in [0, 1), not {self.warmup}.")
        if self.schedule not in _IN_PHASES:
            if self.frozen_epochs is not None:
                raise RecipeError(f"frozen_epochs belongs to {' and '.join(_IN_PHASES)}, not to {self.schedule}.")
            return
        if not 1 <= self.first_phase < self.epochs:
            raise RecipeError(
                f"{self.schedule} has two phases: frozen_epochs ({self.first_phase}) must be at least 1 and below "
                f"epochs ({self.epochs})."
            )
        if self.schedule == "sawtooth" and self.first_phase / self.epochs + self.warmup >= 1:
            raise RecipeError(
                f"sawtooth warms up twice: frozen_epochs / epochs ({self.first_phase}/{self.epochs}) and warmup "
                f"({self.warmup:g}) must leave time for the rest; together they must stay below 1."
            )

    @property
    def iterations(self) -> int:
        """All optimizer steps."""
        return self.epochs * self.iterations_per_epoch

    @property
    def first_phase(self) -> int:
        """Epochs in which the encoder rests before it learns."""
        if self.schedule not in _IN_PHASES:
            return 0
        return max(1, round(_FIRST_PHASE * self.epochs)) if self.frozen_epochs is None else self.frozen_epochs

    def encoder_rests(self, epoch: int) -> bool:
        """Whether the encoder keeps its weights in this epoch (from 0)."""
        return self.schedule == "frozen" or epoch < self.first_phase

    def learning_rate(self, iteration: int) -> float:
        """Linear rise to `peak_lr`, then down to 0 at `iterations`; "sawtooth" rises twice. `iteration` is from 0."""
        start = self.first_phase * self.iterations_per_epoch if self.schedule == "sawtooth" else 0
        if iteration < start:
            return self.peak_lr * (iteration + 1) / (start + 1)
        rising, step = self.warmup * self.iterations, iteration - start
        if step < rising:
            return self.peak_lr * (step + 1) / (rising + 1)
        done = min(1.0, (step - rising) / max(1.0, self.iterations - start - rising))
        if self.decay == "cosine":
            return self.peak_lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak_lr * float((1 - done) ** POLY_EXPONENT)

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON holds them."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write the schedule where another process will read it."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class MeasuredSchedule(FinetuneSchedule):
    """A short run on the CPU with Dice on whole held-out cases after every epoch, the same for every arm.

    AdamW with a cosine instead of SGD: scratch is better off with it in a short run, too. No mirroring: left and right
    organs are classes of their own.

    Attributes:
        curve_cases: held-out cases measured on the way (all of them are measured at the end).
        split: JSON file {"train": [cases], "val": [cases]} in place of nnU-Net's fold.
    """

    epochs: int = 5
    iterations_per_epoch: int = 50
    validation_iterations: int = 1  # only feeds nnU-Net's log; the curve is the measurement
    peak_lr: float = 1e-2
    warmup: float = 0.1
    decay: Literal["poly", "cosine"] = "cosine"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = 1e-2
    mirroring: bool = False
    curve_cases: int = 4
    split: str | None = None


def given() -> dict[str, object]:
    """What NNSSL_FINETUNE says: JSON, or the name of a JSON file; empty where it is not set.

    Raises:
        RecipeError: the file is not there, or it is no JSON object.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return {}
    where = VARIABLE
    if not text.startswith("{"):
        path, where = Path(text), f"{VARIABLE}={text}"
        if not path.is_file():
            raise RecipeError(f"{VARIABLE} must hold JSON or name a JSON file with a schedule; {path} is no file.")
        text = path.read_text()
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f'{where} is not valid JSON: {error}. Example: {{"epochs": 100}}.') from error
    if not isinstance(values, dict):
        raise RecipeError(f'{where} must be a JSON object such as {{"epochs": 100}}, not a {type(values).__name__}.')
    return values
