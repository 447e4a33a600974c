"""How long and how a short fine-tuning runs: one small file shared by the process that plans it and nnU-Net's."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nnssl.errors import RecipeError

VARIABLE = "NNSSL_FINETUNE"  # names the JSON file; stock nnUNetv2_train has no option that could carry it


@dataclass(frozen=True, kw_only=True)
class FinetuneSchedule:
    """The schedule of a fine-tuning, the same for every arm of a comparison.

    Attributes:
        iterations: optimizer steps; a multiple of `evaluate_every`.
        evaluate_every: steps between two measurements of Dice on whole held-out cases.
        curve_cases: held-out cases measured on the way (all of them are measured at the end).
        peak_lr: learning rate after the warm-up, with AdamW.
        warmup: share of the steps in which the rate rises linearly from 0, in [0, 1).
        weight_decay: AdamW's.
        mirroring: mirror along all axes in training and prediction, as nnU-Net does; False keeps left and right apart.
        seed: of weights, patches and augmentation.
        threads: of torch on the CPU; 0 leaves nnU-Net's choice, which is every core of the machine even where this
            process may use only some of them.
    """

    iterations: int = 250
    evaluate_every: int = 50
    curve_cases: int = 4
    peak_lr: float = 1e-2
    warmup: float = 0.1
    weight_decay: float = 1e-2
    mirroring: bool = False
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.evaluate_every < 1 or self.iterations < 1 or self.iterations % self.evaluate_every:
            raise RecipeError(
                f"iterations ({self.iterations}) must be a positive multiple of evaluate_every "
                f"({self.evaluate_every}): Dice is measured at the end of every stretch."
            )
        if not 0 <= self.warmup < 1:
            raise RecipeError(f"warmup is a share of the iterations in [0, 1), not {self.warmup}.")

    def learning_rate(self, iteration: int) -> float:
        """Linear warm-up, then a half cosine down to 0 at `iterations`. `iteration` counts from 0."""
        rising = self.warmup * self.iterations
        if iteration < rising:
            return self.peak_lr * (iteration + 1) / (rising + 1)
        done = (iteration - rising) / max(1.0, self.iterations - rising)
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def save(self, path: Path) -> None:
        """Write the schedule where `from_environment` of another process will read it."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def from_environment() -> FinetuneSchedule:
    """The schedule in the file that NNSSL_FINETUNE names, or the defaults where it is not set.

    Raises:
        RecipeError: the file is not there, is no JSON object, or has an unknown key.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return FinetuneSchedule()
    path = Path(name)
    if not path.is_file():
        raise RecipeError(f"{VARIABLE} must name a JSON file with a fine-tuning schedule; there is none at {path}.")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RecipeError(
            f"{VARIABLE}={path} is not valid JSON: {error}. Write it with FinetuneSchedule.save."
        ) from error
    known = [field.name for field in fields(FinetuneSchedule)]
    unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else [type(values).__name__]
    if unknown:
        raise RecipeError(f"{VARIABLE}={path} has unknown keys {', '.join(unknown)}; known are {', '.join(known)}.")
    return FinetuneSchedule(**values)
