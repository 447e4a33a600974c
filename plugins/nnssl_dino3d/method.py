"""DINO in 3D: views of one box, large and small, must get the answer that a slow teacher gives to the large ones.

3DMedDINO (Proc. SPIE 12926, 2024) is DINO (Caron et al. 2021) on CT crops with augmentations chosen per task; Sinkhorn
targets, KoLeo and the masked dense term are options from DINOv2 (Oquab et al. 2023) and iBOT (Zhou et al. 2022).
Written from the published formulas; the equations are numbered here and in README.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnssl.blocks.center import Center
from nnssl.blocks.ema import CosineMomentum
from nnssl.blocks.heads import DINOHead, hold
from nnssl.blocks.koleo import koleo
from nnssl.blocks.losses import (
    pair_cross_entropy,
    student_log_probabilities,
    teacher_probabilities,
    view_pairs,
)
from nnssl.blocks.masked import cells_of, counted_cross_entropy
from nnssl.blocks.multicrop import flat_views, warmed_up
from nnssl.blocks.pooling import Pooling, pool, pooled_width
from nnssl.blocks.sinkhorn import sinkhorn
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
    View,
    ViewSpec,
)
from nnssl.needs import BodyMask
from nnssl.views.intensity.apply import apply_fixed
from nnssl_dino3d import PAPER
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.views import GLOBAL, LOCAL, view_spec, window


class Branch(nn.Module):
    """Encoder and projectors: what the teacher is an average of.

    Attributes:
        encoder: nnU-Net's.
        head: projector of whole views.
        dense_head: projector of bottleneck cells, or None without the dense term.
        hidden_token: what a Primus sees in hidden cells, learned; None for other encoders and without the dense term.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: DINOHead,
        dense_head: DINOHead | None,
        pooling: Pooling,
        hidden_token: nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.dense_head = dense_head
        self.pooling = pooling
        self.hidden_token = hidden_token

    def encode(self, image: Tensor, valid: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, d) pooled vectors and the (N, C, d, h, w) deepest maps of (N, C, D, H, W) images.

        Args:
            image: of the views.
            valid: (N, 1, D, H, W) bool, what lies in the case.
            hidden: (N, d * h * w) bool, cells in whose place the hidden token stands; with a hidden token alone.
        """
        replaced = {} if hidden is None else {"hidden": hidden, "token": self.hidden_token}
        deepest: Tensor = self.encoder(image, **replaced)[-1]
        return pool(deepest, self.pooling, valid=valid), deepest

    def cells(self, deepest: Tensor) -> Tensor | None:
        """(N, d * h * w, K) logits of all cells, raster order; None without the dense term."""
        if self.dense_head is None:
            return None
        vectors = deepest.flatten(2).transpose(1, 2)
        logits: Tensor = self.dense_head(vectors.flatten(0, 1))
        return logits.view(*vectors.shape[:2], -1)

    def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, K) logits of views, and those of their cells."""
        vectors, deepest = self.encode(image, valid)
        return self.head(vectors), self.cells(deepest)


class DINO3D(Method):
    """Self-distillation without labels; the encoder transfers."""

    PAPER = PAPER
    Config = DINO3DConfig
    config: DINO3DConfig
    dense_center: Center  # there with the dense term

    @classmethod
    def needs(cls, config: DINO3DConfig) -> Needs:
        """Batch norm in the heads, KoLeo and Sinkhorn mix samples, and mean nothing with few of them."""
        mixing = ((config.head_norm != "none", 4), (config.koleo > 0, 8), (config.targets == "sinkhorn", 64))
        least = [cases for switched_on, cases in mixing if switched_on]
        return Needs(
            values="raw" if config.published_views else "plan",
            sidecars=(BodyMask,) if config.body else (),
            min_cases=max([1, *least]),
            batch_coupled=bool(least),
        )

    @classmethod
    def views(cls, config: DINO3DConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_dino3d.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: DINO3DConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        tokens = config.network != "plan"
        patch = networks.plan.patch_size
        encoder = networks.other(config.network, patch_size=patch) if tokens else networks.encoder()
        width = encoder.channels[-1]
        head = self._head(pooled_width(width, config.pooling))
        dense_head = self._head(width) if config.dense else None
        self.stride = encoder.strides[-1]
        hidden_token = None
        if tokens and config.dense:  # begins as nnU-Net's positions do
            hidden_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.student = Branch(encoder, head, dense_head, config.pooling, hidden_token)
        # Eq. 5: theta_t <- m_t theta_t + (1 - m_t) theta_s, m_t = 1 - (1 - m_0)(1 + cos(pi t / T)) / 2
        momentum = CosineMomentum(config.teacher_momentum, memory=config.teacher_memory)
        self.teacher = networks.teacher(self.student, momentum=momentum)
        # Eq. 4: c <- 0.9 c + 0.1 mean of the teacher's raw logits
        self.center = Center(config.prototypes, momentum=config.center_momentum)
        if config.dense:
            self.dense_center = Center(config.prototypes, momentum=config.center_momentum)

    def _head(self, width: int) -> DINOHead:
        """Eq. 1: s = W MLP(z) / |MLP(z)|, z = pool(f), rows of W of length 1."""
        config = self.config
        return DINOHead(
            width,
            config.prototypes,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            norm=config.head_norm,
        )

    def teacher_temperature(self, epoch: int) -> float:
        """Eq. 6: tau_t(e) = first + (last - first) e / (W - 1) for e < W, then last."""
        return warmed_up(epoch, self.config.teacher_temperature, epochs=self.config.teacher_warmup_epochs)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Cross-entropy over pairs of views; with the options, a spread of vectors and a term of hidden cells."""
        hidden = self._hidden(batch, step)
        target, target_cells = self._teacher(batch.views[GLOBAL])
        logits, vectors, cells = self._student(batch, hidden, step)
        p = self._targets(target, self.center, step)
        views = 2 * len(logits) // len(target)
        # Eq. 2: log q = log_softmax(s / tau_s)
        log_q = student_log_probabilities(logits, temperature=self.config.student_temperature).chunk(views)
        # Eq. 3: L = 1/|P| sum_{(i,j) in P} mean_B[-p(x_i) log q(x_j)], i global, j any other view
        total = pair_cross_entropy(p.chunk(2), log_q, view_pairs(2, views))
        parts = {"dino": total.detach()}
        if self.config.koleo:
            # Eq. 7: -mean_i log |z_i - z_n(i)|, each set of global views on its own, summed
            spread = torch.stack([koleo(one, gather=step.gather) for one in vectors.chunk(2)]).sum()
            total, parts["koleo"] = total + self.config.koleo * spread, spread.detach()
        if hidden is not None and target_cells is not None and cells is not None:
            dense = self._dense(target_cells, cells, self._counted(hidden, batch.views[GLOBAL]), step)
            total, parts["dense"] = total + self.config.dense * dense, dense.detach()
        watch = {"teacher_probs": p, "student_log_probs": torch.cat((log_q[1], log_q[0])).detach()}
        return Losses(total=total, parts=parts, watch=watch | {"vectors": vectors.detach()})

    def _teacher(self, view: View) -> tuple[Tensor, Tensor | None]:
        """(2B, K) raw logits of the global views, nothing hidden; those of their cells."""
        logits: tuple[Tensor, Tensor | None] = self.teacher(flat_views(view.image), flat_views(view.valid))
        return logits

    def _student(self, batch: Batch, hidden: Tensor | None, step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
        """(V*B, K) logits of all views, (2B, d) vectors of the global ones and logits of their cells."""
        view = batch.views[GLOBAL]
        image, replaced = view.image, None
        if hidden is not None and self.student.hidden_token is not None:
            replaced = self._cells(hidden)
        elif hidden is not None:
            image = self._without(image, hidden, batch.keys, step)
        vectors, deepest = self.student.encode(flat_views(image), flat_views(view.valid), replaced)
        everyone = [vectors]
        if LOCAL in batch.views:  # one call a view size
            small = batch.views[LOCAL]
            everyone.append(self.student.encode(flat_views(small.image), flat_views(small.valid))[0])
        # one call of the head: its batch norm sees all views together
        return self.student.head(torch.cat(everyone)), vectors, self.student.cells(deepest)

    def _targets(self, logits: Tensor, center: Center, step: Step, counted: Tensor | None = None) -> Tensor:
        """Eq. 2: p = softmax((t - c) / tau_t), or Sinkhorn-Knopp of t / tau_t; remembers t for the centre.

        Args:
            logits: (N, K) raw teacher logits.
            center: of these logits.
            step: where the run stands.
            counted: (N,) bool; others are no targets. None: all.
        """
        temperature = self.teacher_temperature(step.epoch)
        if self.config.targets == "sinkhorn":
            iterations = self.config.sinkhorn_iterations
            return sinkhorn(logits, temperature=temperature, iterations=iterations, counted=counted)
        if self.config.targets == "center":
            center.observe(logits, counted)
        return teacher_probabilities(logits, center.value, temperature=temperature)

    def _hidden(self, batch: Batch, step: Step) -> Tensor | None:
        """(B, 2, 1, D, H, W) bool: blocks of global views the student may not see; none in the views not chosen."""
        mask = batch.views[GLOBAL].mask
        if mask is None:
            return None
        chosen = step.uniform("masked", batch.keys, (2,)) < self.config.dense_views
        return mask & chosen[:, :, None, None, None, None]

    def _without(self, image: Tensor, hidden: Tensor, keys: Tensor, step: Step) -> Tensor:
        """Images with the hidden blocks filled, by what is seen of each channel: its mean, or noise of its spread."""
        seen = (~hidden).to(image.dtype)
        voxels = seen.sum((3, 4, 5), keepdim=True).clamp(min=1)
        mean = (image * seen).sum((3, 4, 5), keepdim=True) / voxels
        if self.config.dense_fill == "mean":
            return torch.where(hidden, mean, image)
        variance = ((image - mean).square() * seen).sum((3, 4, 5), keepdim=True) / voxels
        noise = step.normal("hidden", keys, image.shape[1:])
        return torch.where(hidden, mean + variance.sqrt() * noise, image)

    def _counted(self, hidden: Tensor, view: View) -> Tensor:
        """(2B, n) bool: the hidden cells that lie in the case by half at least."""
        inside = cells_of(flat_views(view.valid), self.stride) >= 0.5
        return inside & self._cells(hidden)

    def _cells(self, hidden: Tensor) -> Tensor:
        """(2B, n) bool: which cells are hidden."""
        return cells_of(flat_views(hidden), self.stride) > 0.5

    def _dense(self, target: Tensor, logits: Tensor, counted: Tensor, step: Step) -> Tensor:
        """Eq. 8: L_dense = 1/2B sum_views 1/|M| sum_{i in M} -p_i log q_i, M the hidden cells within the case."""
        p = self._targets(target.flatten(0, 1), self.dense_center, step, counted.flatten())
        log_q = student_log_probabilities(logits, temperature=self.config.student_temperature)
        return counted_cross_entropy(p.view_as(log_q), log_q, counted)

    def edit_gradients(self, step: Step) -> None:
        """In epochs e < F all prototypes stay: no gradient, so no decay and no momentum either."""
        if step.epoch < self.config.frozen_epochs:
            hold(head.last_layer for head in (self.student.head, self.student.dense_head) if head is not None)

    def features(self, image: Tensor) -> Features:
        """The teacher's stages, and its deepest one pooled."""
        if self.config.published_views:
            image = apply_fixed(window(), image)
        maps = self.teacher.network.encoder(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1], self.config.pooling))

    def export_network(self) -> Exported:
        """The teacher's encoder, as published; the student's as a choice."""
        return Exported.distilled(teacher=self.teacher.network.encoder, student=self.student.encoder)
