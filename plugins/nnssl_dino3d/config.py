"""The numbers of DINO3D, each with its published value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nnssl.blocks.heads import HeadNorm
from nnssl.blocks.pooling import Pooling
from nnssl.errors import RecipeError

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class DINO3DConfig:
    """Numbers of DINO3D. "Published" is 3DMedDINO's run; where the default differs, README.md says why.

    Attributes:
        network: `plan` for the plan's own encoder, or nnU-Net's Primus, `primus_s` to `primus_l`; published ResNet-50
            and ViT-S.
        local_views: views for the student alone; published 8.
        published_views: 48 x 96 x 96 and 12 x 24 x 24 voxels of HU in [0, 1] instead of the plan's values and sizes.
        body: boxes hold body; published code draws air boxes too.
        augmentation_probability: chance of each of the following but mirroring; published 0.5.
        rotation: `limited` to +-rotation_deg, `off`, or `full`: any angle about all axes, what the published code did
            by reading 30 degrees as radians.
        rotation_deg: published 30 (as written, not as run).
        scale: whether each axis is scaled on its own by 1 +- scale_range.
        scale_range: published 0.25.
        flip: chance of mirroring per axis D H W; published one random axis in half of the views, 1/6 each; 0,0,0: off.
        elastic: whether views are deformed elastically.
        elastic_sigma: smoothness in voxels; published 0 to 7, whose low end scrambles the image.
        elastic_magnitude: published 0 to 150.
        smoothing: whether views are blurred.
        smoothing_sigma: in voxels, one draw an axis; published 0 to 2.
        histogram: whether grey values are shifted by a random monotone map.
        histogram_points: its control points; published 10.
        prototypes: K; published 65536.
        hidden: width of the projector's hidden layers; published 2048.
        bottleneck: dimension in which cosines are taken; published 256.
        pooling: of the deepest map; published `mean`.
        head_norm: batch norm in the projector, over all views and ranks: `none` (published), in the `hidden` layers,
            non-affine at its two `ends`, or `everywhere`.
        student_temperature: tau_s; published 0.1.
        teacher_temperature: tau_t at the start and after the warm-up; published 0.04 throughout.
        teacher_warmup_epochs: W; published 0.
        teacher_momentum: m_0; published 0.996.
        teacher_memory: lowers m_0 in short runs, so that the teacher remembers at most this share of the run;
            published no bound, that is 0.
        targets: `center` (published), `sinkhorn` (DINOv2; batches of 64 at least) or `none`, which collapses.
        center_momentum: published 0.9.
        sinkhorn_iterations: of DINOv2, 3.
        frozen_epochs: F, epochs in which the prototypes stay as they are; published 1.
        koleo: weight of the spread of vectors; published 0, DINOv2 0.1; batches of 8 at least.
        dense: weight of the term of hidden cells; published 0, DINOv2 1.
        dense_ratio: hidden share of a masked view's cells; 3DINO 0.2 to 0.75.
        dense_views: chance that a global view is masked; DINOv2 0.5.
        dense_fill: what the student sees there: the channel's `mean`, or `noise` of its mean and deviation. A Primus
            sees a learned token there in place of either.
    """

    network: Literal["plan", "primus_s", "primus_b", "primus_m", "primus_l"] = "plan"
    local_views: int = 6
    published_views: bool = False
    body: bool = False
    augmentation_probability: float = 0.5
    rotation: Literal["off", "limited", "full"] = "limited"
    rotation_deg: float = 30.0
    scale: bool = True
    scale_range: float = 0.25
    flip: tuple[float, float, float] = (1 / 6, 1 / 6, 1 / 6)
    elastic: bool = False
    elastic_sigma: Range = (3.0, 7.0)
    elastic_magnitude: Range = (0.0, 150.0)
    smoothing: bool = True
    smoothing_sigma: Range = (0.0, 2.0)
    histogram: bool = True
    histogram_points: int = 10
    prototypes: int = 4096
    hidden: int = 512
    bottleneck: int = 128
    pooling: Pooling = "mean_std"
    head_norm: HeadNorm = "everywhere"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    teacher_warmup_epochs: int = 0
    teacher_momentum: float = 0.996
    teacher_memory: float = 1 / 6
    targets: Literal["center", "sinkhorn", "none"] = "center"
    center_momentum: float = 0.9
    sinkhorn_iterations: int = 3
    frozen_epochs: int = 1
    koleo: float = 0.0
    dense: float = 0.0
    dense_ratio: Range = (0.2, 0.75)
    dense_views: float = 0.5
    dense_fill: Literal["mean", "noise"] = "mean"

    def __post_init__(self) -> None:
        if self.prototypes < 2 or self.sinkhorn_iterations < 1 or self.local_views < 0:
            raise RecipeError(
                "method.prototypes must be at least 2, method.sinkhorn_iterations at least 1 and method.local_views "
                f"not negative; they are {self.prototypes}, {self.sinkhorn_iterations} and {self.local_views}."
            )
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise RecipeError("method.student_temperature and method.teacher_temperature must be above 0.")
        if not 0 <= self.scale_range < 1 or not 0 <= self.rotation_deg <= 180:
            raise RecipeError(
                f"method.scale_range must lie in [0, 1) and method.rotation_deg in [0, 180], in degrees; they are "
                f"{self.scale_range} and {self.rotation_deg}."
            )
        chances = (self.augmentation_probability, self.dense_views, *self.flip)
        if not all(0 <= chance <= 1 for chance in chances):
            raise RecipeError(
                "method.augmentation_probability, method.dense_views and method.flip are chances in [0, 1]; they are "
                f"{self.augmentation_probability}, {self.dense_views} and {self.flip}."
            )
        if self.network != "plan":
            self._suits_tokens()
        if min(self.koleo, self.dense) < 0 or not 0 < self.dense_ratio[0] <= self.dense_ratio[1] < 1:
            raise RecipeError(
                f"method.koleo and method.dense must not be negative and method.dense_ratio lie in (0, 1), low <= "
                f"high; they are {self.koleo}, {self.dense} and {self.dense_ratio}."
            )

    def _suits_tokens(self) -> None:
        if self.pooling != "mean":
            raise RecipeError(
                f"method.network={self.network} needs method.pooling=mean (it is {self.pooling}): tokens come out of a "
                f"layer norm, whose mean is no constant and whose spread is. --preset primus sets it."
            )
        if self.published_views:
            raise RecipeError(
                f"method.published_views has local views of 12 x 24 x 24 voxels, which Primus cannot cut into tokens "
                f"of 8 x 8 x 8 (method.network={self.network}). Use --preset primus."
            )
        if self.dense and self.dense_fill != "mean":
            raise RecipeError(
                f"method.dense_fill={self.dense_fill} fills voxels, but a Primus (method.network={self.network}) sees "
                f"a learned token in hidden places. Leave method.dense_fill out."
            )
