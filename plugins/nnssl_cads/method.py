"""CADS: deep self-distillation on sampled CT patches, whose student also has to read a radiograph of the case.

Ye et al.: "CADS: A Self-supervised Learner via Cross-modal Alignment and Deep Self-distillation for CT Volume
Segmentation", IEEE TMI 2025. Written from the published formulas; the equations are numbered here and in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.center import Center
from nnssl.blocks.ema import CosineMomentum
from nnssl.blocks.flat import depth_one
from nnssl.blocks.heads import Branch, DINOHead, hold
from nnssl.blocks.losses import pair_cross_entropy, student_log_probabilities, teacher_probabilities, view_pairs
from nnssl.blocks.multicrop import flat_views, warmed_up
from nnssl.blocks.pooling import Pooling, pool, pooled_width
from nnssl.errors import RecipeError
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step, ViewSpec
from nnssl.views.intensity.apply import apply_fixed
from nnssl.views.intensity.jitter import HounsfieldUnits
from nnssl.views.parent_crop import GROUP
from nnssl_cads import PAPER
from nnssl_cads.projection import Projection
from nnssl_cads.sampling import Repack, balanced, blocks_of, kept_patches, pack, patch_of
from nnssl_cads.views import packed_size, view_spec

VIEWS = 3  # CT, CT, projection


@dataclass(frozen=True, kw_only=True)
class CADSConfig:
    """Numbers of CADS. "Published" is the paper's run; where the default differs, README.md says why.

    Attributes:
        sampling: `uniform25` keeps one patch of four in plane (published), `none` the whole view.
        repack: `block`, or `raster` as in the published run.
        prototypes: K; published 60000.
        hidden: width of the projectors' hidden layers; published 2048.
        bottleneck: dimension in which cosines are taken; published 256.
        pooling: of a stage's map; published `mean`.
        head_norm: `none` (published), or batch norm in the hidden layers and non-affine at both ends (`everywhere`).
        student_temperature: tau_s; published 0.1.
        teacher_temperature: tau_t at the start and after the warm-up; published 0.04 and 0.07.
        teacher_warmup_epochs: W; published 50.
        teacher_momentum: m_0; published 0.996.
        teacher_memory: lowers m_0 in short runs, so that the teacher remembers at most this share of the run;
            published no bound, that is 0.
        center_momentum: published 0.9.
        frozen_epochs: F, epochs in which the prototypes stay as they are; published 3.
        distill_stages: how many of the deepest stages get a head; published 4.
        flip: chance of mirroring per axis D H W; published 0.8 each.
        blur_sigma: range in voxels; published 0.1 to 2.0.
        slicewise_intensity: jitter every slice on its own in 2D, as the published run did.
        published_views: 16 x 96 x 96 voxels of raw HU / 1024 instead of the plan's values and sizes.
    """

    sampling: Literal["uniform25", "none"] = "uniform25"
    repack: Repack = "block"
    prototypes: int = 4096
    hidden: int = 512
    bottleneck: int = 128
    pooling: Pooling = "mean"
    head_norm: Literal["none", "everywhere"] = "everywhere"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    teacher_warmup_epochs: int = 50
    teacher_momentum: float = 0.996
    teacher_memory: float = 1 / 6
    center_momentum: float = 0.9
    frozen_epochs: int = 1
    distill_stages: int = 4
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    slicewise_intensity: bool = False
    published_views: bool = False

    def __post_init__(self) -> None:
        if self.distill_stages < 1 or self.prototypes < 2:
            raise RecipeError("method.distill_stages must be at least 1 and method.prototypes at least 2.")
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise RecipeError("method.student_temperature and method.teacher_temperature must be above 0.")


class CADS(Method):
    """Deep self-distillation, aligned with a projection that the student alone sees."""

    PAPER = PAPER
    Config = CADSConfig
    config: CADSConfig

    @classmethod
    def needs(cls, config: CADSConfig) -> Needs:
        """The projection; batch norm in the heads needs some samples, and mixes them."""
        mixed = config.head_norm != "none"
        return Needs(
            values="raw" if config.published_views else "plan",
            sidecars=(Projection,),
            min_cases=4 if mixed else 1,
            batch_coupled=mixed,
        )

    @classmethod
    def views(cls, config: CADSConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_cads.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: CADSConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        encoder = networks.encoder()
        self.stages = min(config.distill_stages, len(encoder.channels))
        heads = [self._head(channels) for channels in encoder.channels[-self.stages :]]
        self.student = Branch(encoder, heads[-1], config.pooling)
        self.shallow_heads = nn.ModuleList(heads[:-1])
        # The projection's own way in: nnU-Net's stem, or its first stage where it has none. All else is shared.
        twin = networks.encoder()
        self.has_stem = twin.stem is not None
        self.flat_stem = twin.stem if self.has_stem else twin.stages[0]
        # Eq. 6: theta_t <- m_t theta_t + (1 - m_t) theta_s, m_t = 1 - (1 - m_0)(1 + cos(pi t / T)) / 2
        momentum = CosineMomentum(config.teacher_momentum, memory=config.teacher_memory)
        self.teacher = networks.teacher(self.student, momentum=momentum)
        # Eq. 5: c <- 0.9 c + 0.1 mean of the teacher's raw logits
        self.center = Center(config.prototypes, momentum=config.center_momentum)

    def _head(self, channels: int) -> DINOHead:
        """Eq. 2: z = pool(f_k), s_k = W MLP(z) / |MLP(z)| with rows of W of length 1."""
        config = self.config
        return DINOHead(
            pooled_width(channels, config.pooling),
            config.prototypes,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            norm=config.head_norm,
        )

    def teacher_temperature(self, epoch: int) -> float:
        """Eq. 7: tau_t(e) = first + (last - first) e / (W - 1) for e < W, then last."""
        return warmed_up(epoch, self.config.teacher_temperature, epochs=self.config.teacher_warmup_epochs)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The mean over stages of the cross-entropies of four pairs with the one target."""
        image, valid = self._crops(batch, step)
        target: Tensor = self.teacher(image, valid)
        self.center.observe(target)
        logits = self._student(image, valid, self._projections(batch))
        tau_s, tau_t = self.config.student_temperature, self.teacher_temperature(step.epoch)
        # Eq. 3: p = softmax((t - c) / tau_t), log q_k = log_softmax(s_k / tau_s)
        p = teacher_probabilities(target, self.center.value, temperature=tau_t).chunk(2)
        log_q = [student_log_probabilities(s, temperature=tau_s).chunk(VIEWS) for s in logits]
        # Eq. 4: P = {(1,2), (1,X), (2,1), (2,X)}, L = 1/n sum_k 1/4 sum_{(i,j) in P} mean_B[-p(x_i) log q_k(x_j)]
        pairs = view_pairs(2, VIEWS)
        losses = [pair_cross_entropy(p, stage, pairs) for stage in log_q]
        aligned = [pair_cross_entropy(p, stage, [pair for pair in pairs if pair[1] == 2]) for stage in log_q]
        parts = {f"stage_{k}": loss.detach() for k, loss in enumerate(losses, 1)}
        return Losses(
            total=torch.stack(losses).mean(),
            parts=parts | {"alignment": torch.stack(aligned).mean().detach()},
            watch={
                "teacher_probs": torch.cat(p),
                "student_log_probs": torch.cat((log_q[-1][1], log_q[-1][0])).detach(),
            },
        )

    def _crops(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """(2B, C, D, H, W) images and (2B, 1, D, H, W) validity of both CT views, their patches sampled."""
        view = batch.views[GROUP]
        image, valid = flat_views(view.image), flat_views(view.valid)
        if self.config.sampling == "none":
            return image, valid
        # Eq. 1: of every 1 x 2 x 2 patches one is kept, each place equally often; a draw of its own for each view
        size = (image.shape[2], image.shape[3], image.shape[4])
        patch = patch_of(packed_size(size))
        blocks = blocks_of(size, patch)
        count = blocks[0] * blocks[1] * blocks[2]
        order = torch.cat([step.permutation(f"patches.{one}", batch.keys, count) for one in range(2)])
        kept = kept_patches(balanced(order), blocks, self.config.repack)
        return pack(image, kept, patch), pack(valid, kept, patch)

    def _projections(self, batch: Batch) -> Tensor:
        """(B, C, 1, H, W) projections in [-1, 1], as large in plane as the views were cut."""
        view = batch.views[GROUP]
        size = view.image.shape[-2:]
        found = [
            arrays["image"].to(view.image.dtype) for arrays in batch.sources[view.source].sidecars[Projection.name]
        ]
        return torch.stack([F.interpolate(one[None], size=size, mode="bilinear")[0] for one in found])[:, :, None]

    def _student(self, image: Tensor, valid: Tensor, projection: Tensor) -> list[Tensor]:
        """(3B, K) logits of both CT views and the projection, for every head."""
        maps = self.student.encoder(image)[-self.stages :]
        flat = self._flat(projection)[-self.stages :]
        heads = [*self.shallow_heads, self.student.head]
        kind = self.config.pooling
        # one call a head: its batch norm sees all views together
        return [
            head(torch.cat((pool(deep, kind, valid=valid), pool(plane, kind))))
            for head, deep, plane in zip(heads, maps, flat, strict=True)
        ]

    def _flat(self, projection: Tensor) -> list[Tensor]:
        """Maps of depth 1 of (B, C, 1, H, W): the own way in, then the encoder's stages."""
        encoder: Any = self.student.encoder
        with depth_one(encoder), depth_one(self.flat_stem):
            x = self.flat_stem(projection)
            maps = [] if self.has_stem else [x]
            for stage in list(encoder.stages)[0 if self.has_stem else 1 :]:
                x = stage(x)
                maps.append(x)
        return maps

    def edit_gradients(self, step: Step) -> None:
        """In epochs e < F all prototypes stay: no gradient, so no decay and no momentum either."""
        if step.epoch < self.config.frozen_epochs:
            hold(head.last_layer for head in (*self.shallow_heads, self.student.head))

    def features(self, image: Tensor) -> Features:
        """The teacher's stages on whole images, and its deepest one pooled."""
        if self.config.published_views:
            image = apply_fixed(HounsfieldUnits(), image)
        maps = self.teacher.network.encoder(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1], self.config.pooling))

    def export_network(self) -> Exported:
        """The teacher's encoder, as published; the student's as a choice. The projection's way in stays behind."""
        return Exported.distilled(teacher=self.teacher.network.encoder, student=self.student.encoder)
