"""DeSD: every stage of the student's encoder predicts what the teacher's deepest stage says about another view.

Ye, Zhang, Chen, Xia: "DeSD: Self-Supervised Learning with Deep Self-Distillation for 3D Medical Image Segmentation",
MICCAI 2022. Written from the published formulas; the equations are numbered here and in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnssl.blocks.center import Center
from nnssl.blocks.ema import CosineMomentum
from nnssl.blocks.heads import Branch, DINOHead, hold
from nnssl.blocks.losses import (
    pair_cross_entropy,
    student_log_probabilities,
    teacher_probabilities,
    view_pairs,
)
from nnssl.blocks.multicrop import flat_views, warmed_up
from nnssl.blocks.pooling import Pooling, pool, pooled_width
from nnssl.errors import RecipeError
from nnssl.method import (
    Batch,
    DataInfo,
    Exported,
    Features,
    Losses,
    Method,
    Needs,
    Networks,
    PlanInfo,
    Step,
    ViewSpec,
)
from nnssl.views.intensity.apply import apply_fixed
from nnssl.views.intensity.jitter import HounsfieldUnits
from nnssl_desd import PAPER
from nnssl_desd.views import view_spec

HeadNorm = Literal["none", "hidden", "everywhere"]


@dataclass(frozen=True, kw_only=True)
class DeSDConfig:
    """Numbers of DeSD. "Published" is the paper's run; where the default differs, README.md says why.

    Attributes:
        prototypes: K; published 60000.
        hidden: width of the projectors' hidden layers; published 2048.
        bottleneck: dimension in which cosines are taken; published 256.
        pooling: of a stage's map; published `mean`.
        head_norm: batch norm in the projectors, over all views and ranks: in the hidden layers (published), or also
            non-affine before the first layer and after the last (`everywhere`).
        student_temperature: tau_s; published 0.1.
        teacher_temperature: tau_t at the start and after the warm-up; published 0.04 and 0.07.
        teacher_warmup_epochs: W; published 20.
        teacher_momentum: m_0; published 0.996.
        teacher_memory: lowers m_0 in short runs, so that the teacher remembers at most this share of the run;
            published no bound, that is 0.
        center_momentum: published 0.9.
        frozen_epochs: F, epochs in which the prototypes stay as they are; published 1.
        distill_stages: how many of the deepest stages get a head; published 4.
        stage_weights: one weight a head, shallowest first; empty: equal weights with sum 1 (published).
        local_views: views of half the in-plane size for the student alone; published run 0.
        flip: chance of mirroring per axis D H W; published 0.8 each.
        blur_sigma: range in voxels; published 0.1 to 2.0.
        slicewise_intensity: jitter every slice on its own in 2D, as the published run did.
        published_views: 16 x 96 x 96 voxels of raw HU / 1024 instead of the plan's values and sizes.
    """

    prototypes: int = 4096
    hidden: int = 512
    bottleneck: int = 128
    pooling: Pooling = "mean_std"
    head_norm: HeadNorm = "everywhere"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    teacher_warmup_epochs: int = 20
    teacher_momentum: float = 0.996
    teacher_memory: float = 1 / 6
    center_momentum: float = 0.9
    frozen_epochs: int = 1
    distill_stages: int = 4
    stage_weights: tuple[float, ...] = ()
    local_views: int = 0
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    slicewise_intensity: bool = False
    published_views: bool = False

    def __post_init__(self) -> None:
        if self.distill_stages < 1 or self.prototypes < 2:
            raise RecipeError("method.distill_stages must be at least 1 and method.prototypes at least 2.")
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise RecipeError("method.student_temperature and method.teacher_temperature must be above 0.")


class DeSD(Method):
    """Deep self-distillation. Stages are counted k = 1..n from the shallowest that has a head; n is the deepest."""

    PAPER = PAPER
    Config = DeSDConfig
    config: DeSDConfig

    @classmethod
    def needs(cls, config: DeSDConfig) -> Needs:
        """Batch norm in the heads needs some samples, and mixes them."""
        mixed = config.head_norm != "none"
        return Needs(
            values="raw" if config.published_views else "plan",
            min_cases=4 if mixed else 1,
            batch_coupled=mixed,
        )

    @classmethod
    def views(cls, config: DeSDConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_desd.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: DeSDConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        encoder = networks.encoder()
        self.stages = min(config.distill_stages, len(encoder.channels))
        self.weights = config.stage_weights or (1.0 / self.stages,) * self.stages
        if len(self.weights) != self.stages:
            raise RecipeError(f"method.stage_weights needs {self.stages} numbers, one a head; found {self.weights}.")
        heads = [self._head(channels) for channels in encoder.channels[-self.stages :]]
        self.student = Branch(encoder, heads[-1], config.pooling)
        self.shallow_heads = nn.ModuleList(heads[:-1])
        # Eq. 5: theta_t <- m_t theta_t + (1 - m_t) theta_s, m_t = 1 - (1 - m_0)(1 + cos(pi t / T)) / 2
        momentum = CosineMomentum(config.teacher_momentum, memory=config.teacher_memory)
        self.teacher = networks.teacher(self.student, momentum=momentum)
        # Eq. 4: c <- 0.9 c + 0.1 mean of the teacher's raw logits
        self.center = Center(config.prototypes, momentum=config.center_momentum)

    def _head(self, channels: int) -> DINOHead:
        """Eq. 1: z = pool(f_k), s_k = W MLP(z) / |MLP(z)| with rows of W of length 1."""
        config = self.config
        return DINOHead(
            pooled_width(channels, config.pooling),
            config.prototypes,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            norm=config.head_norm,
        )

    def teacher_temperature(self, epoch: int) -> float:
        """Eq. 6: tau_t(e) = first + (last - first) e / (W - 1) for e < W, then last."""
        return warmed_up(epoch, self.config.teacher_temperature, epochs=self.config.teacher_warmup_epochs)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The weighted mean over stages of the cross-entropies with the one target."""
        target, logits, views = self._logits(batch)
        self.center.observe(target)
        # Eq. 2: p = softmax((t - c) / tau_t), log q_k = log_softmax(s_k / tau_s)
        tau_s, tau_t = self.config.student_temperature, self.teacher_temperature(step.epoch)
        p = teacher_probabilities(target, self.center.value, temperature=tau_t).chunk(2)
        log_q = [student_log_probabilities(s, temperature=tau_s).chunk(views) for s in logits]
        # Eq. 3: L_k = 1/|P| sum_{(i,j) in P} mean_B[-p(x_i) log q_k(x_j)], L = sum_k w_k L_k
        losses = [pair_cross_entropy(p, stage, view_pairs(2, views)) for stage in log_q]
        total = torch.stack([w * loss for w, loss in zip(self.weights, losses, strict=True)]).sum()
        probabilities, crossed = torch.cat(p), torch.cat((log_q[-1][1], log_q[-1][0]))
        return Losses(
            total=total,
            parts={f"stage_{k}": loss.detach() for k, loss in enumerate(losses, 1)},
            watch={"teacher_probs": probabilities, "student_log_probs": crossed.detach()},
        )

    def _logits(self, batch: Batch) -> tuple[Tensor, list[Tensor], int]:
        """(2B, K) teacher logits of the global views; (V*B, K) student logits of all views, for every head; V."""
        views = [batch.views[name] for name in ("global", "local") if name in batch.views]
        groups = [(flat_views(view.image), flat_views(view.valid)) for view in views]
        target: Tensor = self.teacher(*groups[0])
        pooled: list[list[Tensor]] = [[] for _ in range(self.stages)]
        for image, valid in groups:  # one call a view size
            for stage, feature_map in enumerate(self.student.encoder(image)[-self.stages :]):
                pooled[stage].append(pool(feature_map, self.config.pooling, valid=valid))
        heads = [*self.shallow_heads, self.student.head]
        # one call a head: its batch norm sees all views together, as published
        logits = [head(torch.cat(vectors)) for head, vectors in zip(heads, pooled, strict=True)]
        return target, logits, 2 * len(logits[0]) // len(target)

    def edit_gradients(self, step: Step) -> None:
        """In epochs e < F all prototypes stay: no gradient, so no decay and no momentum either."""
        if step.epoch < self.config.frozen_epochs:
            hold(head.last_layer for head in (*self.shallow_heads, self.student.head))

    def features(self, image: Tensor) -> Features:
        """The teacher's stages, and its deepest one pooled."""
        if self.config.published_views:
            image = apply_fixed(HounsfieldUnits(), image)
        maps = self.teacher.network.encoder(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1], self.config.pooling))

    def export_network(self) -> Exported:
        """The teacher's encoder, as published; the student's as a choice."""
        return Exported.distilled(teacher=self.teacher.network.encoder, student=self.student.encoder)
