"""The numbers of Alice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nnssl.blocks.pooling import Pooling
from nnssl.errors import RecipeError

HeadNorm = Literal["none", "hidden", "everywhere"]


@dataclass(frozen=True, kw_only=True)
class AliceConfig:
    """Numbers of Alice. "Published" is the paper's run or, where it does not say, its code's; README.md says which.

    Attributes:
        casa: attention between features with a projector behind it (paper), or between logits of prototypes (code).
        casa_target: keys and values of the target from the teacher's encoder (paper) or its decoder (code).
        casa_ema: the target's keys, values and output by averages of the student's layers (paper) or by the student's
            own (code).
        casa_width: of the attention, or of what the code's MLP takes; published 384.
        casa_heads: of the paper's attention, whose formula has one; the code's has 8.
        casa_dropout: in the code's attention layer; published 0.1.
        prototypes: K; published 512.
        hidden: width of the projectors' hidden layers; published 2048.
        bottleneck: dimension in which cosines are taken; published 256.
        pooling: of the deepest map; published `mean`.
        head_norm: batch norm in the heads of whole crops and of tokens, as DeSD's; `everywhere` also standardises the
            tokens that the paper's attention compares. Published `none`.
        student_temperature: tau_s; published 0.1.
        teacher_temperature: tau_t at the start and after the warm-up; published 0.008 and 0.01.
        teacher_warmup_epochs: published 30.
        teacher_momentum: m_0; published 0.996.
        teacher_memory: lowers m_0 in short runs, so that the teacher remembers at most this share of the run;
            published no bound, that is 0.
        center_momentum: published 0.9.
        frozen_epochs: epochs in which the prototypes stay as they are; published 1.
        reconstruction: voxels that count, `all` (published code) or `hidden` ones.
        reconstruction_weight: published 10.
        mask: `tubes` through the whole depth (published code) or `blocks`.
        ratio: hidden share, rounded up to whole tubes; published 0.75.
        sparse: the encoder sees visible cells alone and learned tokens fill the gaps for the decoder (the paper's
            figure), instead of zeros in a dense encoder (code).
        body_only: cells without body do not ask; published: all do.
        most_queries, most_memory: cells beyond that are merged; published views have 64 and 512.
        jitter_mm: matched points are moved by up to so much along each axis, both by the same.
        view_side: voxels a side that a view has at most; published 64.
        published_views: 64 x 64 x 64 voxels of HU from -125 to 225 as 0 to 1.
    """

    casa: Literal["paper", "code"] = "paper"
    casa_target: Literal["encoder", "decoder"] = "encoder"
    casa_ema: bool = True
    casa_width: int = 384
    casa_heads: int = 1
    casa_dropout: float = 0.0
    prototypes: int = 512
    hidden: int = 2048
    bottleneck: int = 256
    pooling: Pooling = "mean_std"
    head_norm: HeadNorm = "everywhere"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.05, 0.05)
    teacher_warmup_epochs: int = 30
    teacher_momentum: float = 0.996
    teacher_memory: float = 1 / 6
    center_momentum: float = 0.9
    frozen_epochs: int = 1
    reconstruction: Literal["all", "hidden"] = "all"
    reconstruction_weight: float = 10.0
    mask: Literal["tubes", "blocks"] = "tubes"
    ratio: float = 0.75
    sparse: bool = False
    body_only: bool = True
    most_queries: int = 512
    most_memory: int = 4096
    jitter_mm: float = 8.0
    view_side: int = 96
    published_views: bool = False

    def __post_init__(self) -> None:
        if min(self.prototypes, self.hidden, self.bottleneck) < 2 or self.view_side < 1:
            raise RecipeError("method.prototypes, method.hidden and method.bottleneck must be at least 2.")
        if min(self.most_queries, self.most_memory, self.casa_heads) < 1 or self.casa_width % self.casa_heads:
            raise RecipeError(
                f"method.most_queries, method.most_memory and method.casa_heads must be at least 1, and casa_width "
                f"({self.casa_width}) a multiple of casa_heads ({self.casa_heads})."
            )
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise RecipeError("method.student_temperature and method.teacher_temperature must be above 0.")
        if not 0 < self.ratio < 1 or not 0 <= self.casa_dropout < 1:
            raise RecipeError(
                f"method.ratio must lie in (0, 1) and method.casa_dropout in [0, 1); found {self.ratio} and "
                f"{self.casa_dropout}."
            )
        if min(self.jitter_mm, self.reconstruction_weight, self.frozen_epochs) < 0:
            raise RecipeError("method.jitter_mm, reconstruction_weight and frozen_epochs must not be negative.")
        if self.casa == "code" and (self.head_norm != "none" or self.casa_heads != 1):
            raise RecipeError(
                "method.casa=code has one MLP for crops and tokens and an attention of its own with 8 heads; use "
                "method.head_norm=none and leave method.casa_heads at 1."
            )
        if self.casa == "paper" and self.casa_dropout:
            raise RecipeError("method.casa_dropout belongs to method.casa=code; the paper's attention has none.")
