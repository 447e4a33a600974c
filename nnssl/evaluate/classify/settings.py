"""How a classifier is fine-tuned; knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nnssl.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """The training of network and linear head; pretrained and untrained network get the same.

    Attributes:
        epochs: over the training images.
        batch_size: images a step.
        lr: peak learning rate; of several, each is tried, and the validation subjects choose for each network.
        weight_decay: of AdamW.
        seed: of crops, order and head.
    """

    epochs: int = 30
    batch_size: int = 8
    lr: float | tuple[float, ...] = (1e-4, 1e-3)
    weight_decay: float = 1e-2
    seed: int = 0

    @property
    def lrs(self) -> tuple[float, ...]:
        """All that are tried."""
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            RecipeError: one of them is left.
        """
        if min(self.epochs, self.batch_size) < 1:
            raise RecipeError("epochs and batch_size must be at least 1.")
        if not self.lrs or min(self.lrs) <= 0 or self.weight_decay < 0:
            raise RecipeError("lr must be over 0, and weight_decay not negative.")
