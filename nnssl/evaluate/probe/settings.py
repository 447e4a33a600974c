"""How the heads of a voxel probe are trained; knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nnssl.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How the heads are trained; both networks get the same. vox2vec: 45,000 steps at 3e-4, the rest as here.

    Attributes:
        steps: of the optimizer.
        patches: a step, all from one case.
        patch_size: D H W; None: the pretraining's.
        lr: of Adam, without decay, warm-up or schedule.
        validate_every: steps between two looks at the validation cases.
        validation_share: of the training subjects that choose a head's step and are not trained on; at least one.
        seed: of patches, heads and the untrained network.
    """

    steps: int = 2000
    patches: int = 7
    patch_size: tuple[int, int, int] | None = None
    lr: float = 3e-3
    validate_every: int = 200
    validation_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            RecipeError: one of them is left.
        """
        if min(self.steps, self.patches, self.validate_every) < 1:
            raise RecipeError("steps, patches and validate_every must be at least 1.")
        if not self.lr > 0 or not 0 < self.validation_share < 1:
            raise RecipeError("lr must be over 0, and validation_share between 0 and 1.")
        if self.patch_size is not None and min(self.patch_size) < 1:
            raise RecipeError(f"patch_size {self.patch_size} must be at least 1 on each axis.")
