"""How long everything in the demonstration takes: one number of minutes, turned into steps."""

from __future__ import annotations

from dataclasses import dataclass

from nnssl.errors import UsageError

MINUTES = 8.0
TRAINER = "Vox2VecTrainer"  # of all methods here the one that shows most within minutes
# Recipe keys that a run of minutes on two cores needs besides: the loss grows with the square of the voxels, and there
# is no time to get used to other values than those of the pretraining.
SMALL = {TRAINER: ("method.voxels=256", "method.values=plan")}
CURVE_POINTS = 5  # besides the one before the first step
LABELS = (1, 5)  # how many labelled cases the runs get


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a demonstration; a folder belongs to one of these.

    Attributes:
        trainer: the pretraining's plugin.
        minutes: about how long all of it may take on two cores.
        device: "cpu" or "cuda".
        raw: folder of a real task, or None for phantoms.
    """

    trainer: str = TRAINER
    minutes: float = MINUTES
    device: str = "cpu"
    raw: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 24 * 60:
            raise UsageError(f"--minutes must lie between 0 and {24 * 60}; it is {self.minutes:g}.")

    @property
    def pretraining_steps(self) -> int:
        """Optimizer steps of the pretraining, a multiple of `pretraining_epochs`."""
        return self._scaled(200, multiple=self.pretraining_epochs)

    @property
    def pretraining_epochs(self) -> int:
        """The unit of the journal and of the warm-up."""
        return 20

    @property
    def recipe(self) -> tuple[str, ...]:
        """What a short run changes in the trainer's own recipe, besides length, batch and rate."""
        return SMALL.get(self.trainer, ())

    @property
    def finetuning_iterations(self) -> int:
        """Steps of each of the four fine-tunings."""
        return self._scaled(240, multiple=CURVE_POINTS)

    @property
    def evaluate_every(self) -> int:
        """Fine-tuning steps between two points of the Dice curve."""
        return self.finetuning_iterations // CURVE_POINTS

    def _scaled(self, at_default: int, *, multiple: int) -> int:
        return max(1, round(at_default * self.minutes / MINUTES / multiple)) * multiple
