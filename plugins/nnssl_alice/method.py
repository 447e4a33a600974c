"""Alice: a masked crop of one patient tells what a teacher sees, unmasked, in the same anatomy of another.

Jiang, Sun, Guo, et al.: "Anatomical Invariance Modeling and Semantic Alignment for Self-supervised Learning in 3D
Medical Image Analysis", ICCV 2023, arXiv:2302.05615. Written from the published formulas; the equations are numbered
here and in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.blocks.center import Center
from nnssl.blocks.ema import CosineMomentum
from nnssl.blocks.heads import DINOHead, Prototypes, hold
from nnssl.blocks.losses import (
    counted_mean_squared_error,
    pair_cross_entropy,
    student_log_probabilities,
    teacher_probabilities,
    view_pairs,
    wide,
)
from nnssl.blocks.masked import cells_of, counted_cross_entropy
from nnssl.blocks.multicrop import flat_views, warmed_up
from nnssl.blocks.pooling import pool, pooled_width
from nnssl.blocks.sparse import visible_at, visible_only
from nnssl.blocks.voxels import body_voxels, crop_starts
from nnssl.errors import PlanError
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step, ViewSpec
from nnssl.needs import BodyMask, MatchedPoints
from nnssl.views.intensity.apply import apply_fixed
from nnssl.views.spec import Size
from nnssl_alice import PAPER
from nnssl_alice.casa import Aligned, Drop, FeatureHeads, LogitHeads, Tokens
from nnssl_alice.config import AliceConfig
from nnssl_alice.tokens import merged, query_stage, tokens
from nnssl_alice.views import KEY, OWN, PARTNER, PUBLISHED_HU, QUERY, published_window, view_size, view_spec

LEAST_INSIDE = 0.5  # a cell with a smaller share of its voxels in the case is no token


class Student(nn.Module):
    """What the teacher is an average of.

    Attributes:
        unet: nnU-Net's.
        heads: of whole crops and of tokens.
    """

    def __init__(self, unet: Any, heads: FeatureHeads | LogitHeads) -> None:
        super().__init__()
        self.unet: Any = unet
        self.heads = heads


@dataclass(frozen=True)
class Crops:
    """Both crops of all samples, 2B rows: all queries, then all keys.

    Attributes:
        image: (2B, C, D, H, W).
        visible, valid: (2B, 1, D, H, W) bool: not masked; inside the case.
        body: the same, voxels of the body; None: everything counts.
    """

    image: Tensor
    visible: Tensor
    valid: Tensor
    body: Tensor | None


class Alice(Method):
    """Anatomical invariance between patients, semantic alignment within a crop, reconstruction."""

    PAPER = PAPER
    Config = AliceConfig
    config: AliceConfig

    @classmethod
    def needs(cls, config: AliceConfig) -> Needs:
        """Matched points of two cases. Batch norm in the head needs some samples, and mixes them."""
        mixed = config.head_norm != "none"
        return Needs(
            values="raw" if config.published_views else "plan",
            sidecars=(BodyMask,) if config.body_only else (),
            tables=(MatchedPoints,),
            min_cases=4 if mixed else 1,
            batch_coupled=mixed,
        )

    @classmethod
    def views(cls, config: AliceConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_alice.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: AliceConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        unet = networks.unet()
        size = view_size(config, networks.plan, networks.data)
        self.strides = networks.plan.strides
        self.query_stage = query_stage(self.strides, size)
        self.query_merge = self._merge(size, self.query_stage, config.most_queries)
        self.memory_merge = self._merge(size, self.query_stage - 1, config.most_memory)
        self.student = Student(unet, self._heads(unet.channels))
        # Eq. 8: theta_t <- m_t theta_t + (1 - m_t) theta_s, m_t = 1 - (1 - m_0)(1 + cos(pi t / T)) / 2
        momentum = CosineMomentum(config.teacher_momentum, memory=config.teacher_memory)
        self.teacher = networks.teacher(self.student, momentum=momentum)
        self.to_voxels = nn.Conv3d(unet.channels[0], networks.plan.channels, kernel_size=1)
        widths = unet.encoder.channels if config.sparse else ()
        self.gaps = nn.ParameterList([nn.Parameter(torch.zeros(1, width, 1, 1, 1)) for width in widths])
        # Eq. 7: c <- 0.9 c + 0.1 mean of the teacher's raw logits; one centre for crops, one for tokens
        self.center = Center(config.prototypes, momentum=config.center_momentum)
        self.token_center = Center(config.prototypes, momentum=config.center_momentum)

    def _merge(self, size: Size, stage: int, most: int) -> Size:
        return merged([side // step for side, step in zip(size, self.strides[stage], strict=True)], most)

    def _heads(self, channels: tuple[int, ...]) -> FeatureHeads | LogitHeads:
        config, pooled = self.config, pooled_width(channels[-1], self.config.pooling)
        query, memory = channels[self.query_stage], channels[self.query_stage - 1]
        if config.casa == "code":
            return LogitHeads(
                head=self._head(config.casa_width),
                tokens=Prototypes(config.bottleneck, config.prototypes),
                pooled_width=pooled,
                query_width=query,
                memory_width=memory,
                width=config.casa_width,
            )
        return FeatureHeads(
            pooled=self._head(pooled),
            aligned=self._head(config.casa_width),
            query_width=query,
            memory_width=memory,
            width=config.casa_width,
            heads=config.casa_heads,
            normed=config.head_norm == "everywhere",
        )

    def _head(self, width: int) -> DINOHead:
        """Eq. 1: s = W MLP(z) / |MLP(z)|, rows of W of length 1."""
        config = self.config
        return DINOHead(
            width,
            config.prototypes,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            norm=config.head_norm,
        )

    def teacher_temperature(self, epoch: int) -> float:
        """Eq. 9: tau_t(e) = first + (last - first) e / (W - 1) for e < W, then last."""
        return warmed_up(epoch, self.config.teacher_temperature, epochs=self.config.teacher_warmup_epochs)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Eq. 6: L = L_cls + L_patch + 10 L_rec."""
        crops = self._crops(batch)
        maps, decoded = self._seen(crops)
        with torch.no_grad():
            target_maps, target_decoded = self._target(crops.image)
        p, log_q = self._whole(crops, maps[-1], target_maps[-1], step)
        # Eq. 4: L_cls = (CE(p^Q, q^K) + CE(p^K, q^Q)) / 2, between volumes only; CE(p, q) = mean_B[-sum_k p_k log q_k]
        whole = pair_cross_entropy(p.chunk(2), log_q.chunk(2), view_pairs(2, 2))
        known = target_maps if self.config.casa_target == "encoder" else target_decoded
        told, patch = self._patch(crops, (maps, decoded, known), batch.keys, step)
        prediction = self.to_voxels(decoded[0])
        counted = crops.valid if self.config.reconstruction == "all" else crops.valid & ~crops.visible
        # Eq. 5: L_rec = 1/2 mean over both crops of the mean squared error over their voxels inside the case
        rebuilt = 0.5 * counted_mean_squared_error(prediction, wide(crops.image), counted)
        parts = {"cls": whole, "patch": patch, "reconstruction": rebuilt, "attention_entropy": told.attention_entropy()}
        if told.share is not None:
            parts["attention_share"] = told.share
        crossed = torch.cat(log_q.chunk(2)[::-1])
        return Losses(
            total=whole + patch + self.config.reconstruction_weight * rebuilt,
            parts={name: part.detach() for name, part in parts.items()},
            watch={"teacher_probs": p, "student_log_probs": crossed.detach()},
        )

    # ------------------------------------------------------------------------------------------------ what is seen

    def _crops(self, batch: Batch) -> Crops:
        pair = [(batch.views[name], batch.sources[source]) for name, source in ((QUERY, OWN), (KEY, PARTNER))]
        masks = [view.mask for view, _ in pair if view.mask is not None]
        if len(masks) != 2:
            raise PlanError("Alice needs views with hidden blocks (View.mask); its view specification asks for them.")
        bodies: list[Tensor] = []
        for view, source in pair if self.config.body_only else []:
            starts, size = crop_starts(view.to_source)[:, 0], view.image.shape[3:]
            found = source.sidecars[BodyMask.name]
            bodies += [body_voxels(one, start, size)[None] for one, start in zip(found, starts, strict=True)]
        return Crops(
            image=torch.cat([view.image[:, 0] for view, _ in pair]),
            visible=~torch.cat([mask[:, 0] for mask in masks]),
            valid=torch.cat([view.valid[:, 0] for view, _ in pair]),
            body=torch.stack(bodies) if bodies else None,
        )

    def _seen(self, crops: Crops) -> tuple[list[Tensor], list[Tensor]]:
        """The student's encoder and decoder maps of the visible parts, each finest first."""
        unet = self.student.unet
        seen = torch.where(crops.visible, crops.image, 0.0)  # the mean of normalised voxels, -125 HU of windowed ones
        if not self.config.sparse:
            maps = unet.encoder(seen)
            return maps, unet.decoder(maps)
        with visible_only(unet.encoder, crops.visible):
            maps = unet.encoder(seen)
        filled = [
            torch.where(visible_at(crops.visible, m.shape[2:]), m, gap.to(m.dtype))
            for m, gap in zip(maps, self.gaps, strict=True)
        ]
        return maps, unet.decoder(filled)

    def _shown(self, crops: Crops) -> Tensor:
        """(2B, 1, D, H, W) bool: voxels inside the case that the student's encoder knows (a dense one: all)."""
        return crops.valid & crops.visible if self.config.sparse else crops.valid

    def _target(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's encoder and, where it is asked for, decoder maps of the whole crops."""
        unet = self.teacher.network.unet
        maps = unet.encoder(image)
        return maps, unet.decoder(maps) if self.config.casa_target == "decoder" else []

    # ------------------------------------------------------------------------------------------------ the losses

    def _whole(self, crops: Crops, deepest: Tensor, target: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """(2B, K) probabilities of the teacher and log-probabilities of the student about whole crops."""
        logits = self.student.heads.classify(pool(deepest, self.config.pooling, valid=self._shown(crops)))
        with torch.no_grad():
            vectors = pool(target, self.config.pooling, valid=crops.valid)
            told = self.teacher.network.heads.classify(vectors)
        return self._probabilities(told, self.center, step), self._answers(logits)

    def _probabilities(self, logits: Tensor, center: Center, step: Step, counted: Tensor | None = None) -> Tensor:
        """Eq. 2: p = softmax((t - c) / tau_t); remembers t for the centre."""
        temperature = self.teacher_temperature(step.epoch)
        center.observe(logits.flatten(0, -2), None if counted is None else counted.flatten())
        return teacher_probabilities(logits, center.value, temperature=temperature)

    def _answers(self, logits: Tensor) -> Tensor:
        """Eq. 2: log q = log_softmax(s / tau_s)."""
        return student_log_probabilities(logits, temperature=self.config.student_temperature)

    def _patch(
        self, crops: Crops, maps: tuple[list[Tensor], list[Tensor], list[Tensor]], keys: Tensor, step: Step
    ) -> tuple[Aligned, Tensor]:
        """The student's alignment, and L_patch: within a volume only."""
        own, target = self._aligned(crops, maps, keys, step)
        counted = self._asking(crops)
        p = self._probabilities(target.logits, self.token_center, step, counted)
        # Eq. 4: L_patch = mean over both crops, then over cells, of CE(p_i, q_i)
        return own, counted_cross_entropy(p, self._answers(own.logits), counted)

    def _aligned(
        self, crops: Crops, maps: tuple[list[Tensor], list[Tensor], list[Tensor]], keys: Tensor, step: Step
    ) -> tuple[Aligned, Aligned]:
        """Eq. 3: S = zeta(attention(W_q V, phi(D_s))), T = zeta'(attention(W_q V, psi(E_t))), T without gradient.

        Args:
            crops: both crops.
            maps: of the student's encoder and decoder, and of the teacher's half that gives keys and values.
            keys: of the samples, for dropout.
            step: where the run stands.
        """
        encoder, decoder, target = maps
        student, teacher = self.student.heads, self.teacher.network.heads
        asking = self._inside(self._shown(crops), self.query_stage, self.query_merge)
        known = self._inside(crops.valid, self.query_stage - 1, self.memory_merge)
        queries = student.queries(Tokens(tokens(encoder[self.query_stage], self.query_merge), asking))
        memory = student.memory(Tokens(tokens(decoder[self.query_stage - 1], self.memory_merge), known))
        own = student.attend(queries, memory, self._drop("student", keys, step))
        with torch.no_grad():
            memory = teacher.memory(Tokens(tokens(target[self.query_stage - 1], self.memory_merge), known))
            layers = teacher if self.config.casa_ema else student
            asked = Tokens(queries.vectors.detach(), asking)
            return own, layers.attend(asked, memory, self._drop("teacher", keys, step))

    def _inside(self, voxels: Tensor, stage: int, merge: Size) -> Tensor:
        """(2B, n) bool: tokens of a stage with at least half of their voxels."""
        return cells_of(voxels, self._token_stride(stage, merge)) >= LEAST_INSIDE

    def _token_stride(self, stage: int, merge: Size) -> Size:
        d, h, w = (step * factor for step, factor in zip(self.strides[stage], merge, strict=True))
        return d, h, w

    def _asking(self, crops: Crops) -> Tensor:
        """(2B, n) bool: cells that count in L_patch: in the case, visible to a sparse encoder, with some body."""
        asking = self._inside(self._shown(crops), self.query_stage, self.query_merge)
        if crops.body is None:
            return asking
        return asking & (cells_of(crops.body, self._token_stride(self.query_stage, self.query_merge)) > 0)

    def _drop(self, branch: str, keys: Tensor, step: Step) -> Drop:
        """Dropout keyed by the samples: it is the same in a run continued, and on any number of ranks."""
        rate = self.config.casa_dropout

        def drop(name: str, x: Tensor) -> Tensor:
            """`x` (2B, ...) with some values set to 0 and the others scaled up."""
            if not rate or not self.training:
                return x
            u = flat_views(step.uniform(f"{branch} {name}", keys, (2, *x.shape[1:])))
            return torch.where(u < rate, 0.0, x / (1 - rate))

        return drop

    # ------------------------------------------------------------------------------------------------ around it

    def edit_gradients(self, step: Step) -> None:
        """In epochs e < F all prototypes stay: no gradient, so no decay and no momentum either."""
        if step.epoch < self.config.frozen_epochs:
            hold(self.student.heads.prototypes())

    def parameter_groups(self) -> list[dict[str, object]]:
        """No weight decay on biases, gains and the tokens of gaps."""
        trained = [p for p in self.parameters() if p.requires_grad]
        plain = [p for p in trained if p.ndim <= 1 or any(p is gap for gap in self.gaps)]
        decayed = [p for p in trained if all(p is not other for other in plain)]
        return [{"params": decayed}, {"params": plain, "weight_decay_factor": 0.0}]

    def features(self, image: Tensor) -> Features:
        """All levels of the student's decoder, and its pooled bottleneck."""
        if self.config.published_views:
            image = apply_fixed(published_window(), image)
        maps = self.student.unet(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1], self.config.pooling))

    def export_network(self) -> Exported:
        """The student's encoder and decoder, as published; the teacher's as a choice."""
        student, teacher = self.student.unet, self.teacher.network.unet
        return Exported(
            encoder=student.encoder,
            decoder=student,
            variants={"student": (student.encoder, student), "teacher": (teacher.encoder, teacher)},
            raw_window=PUBLISHED_HU if self.config.published_views else None,
        )
