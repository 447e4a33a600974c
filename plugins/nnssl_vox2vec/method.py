"""vox2vec: a voxel seen in two crops is recognised among all other voxels by its vector over a feature pyramid.

Goncharov, Soboleva, Kurmukov, Pisov, Belyaev: "vox2vec: A Framework for Self-supervised Contrastive Learning of
Voxel-Level Representations in Medical Images", MICCAI 2023, arXiv:2307.14725. Written from the published formulas; the
equations are numbered here and in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.contrastive import nt_xent, vicreg
from nnssl.blocks.losses import wide
from nnssl.blocks.pooling import pool
from nnssl.blocks.voxels import SharedVoxels, body_voxels, crop_starts, pyramid_vectors, shared_voxels
from nnssl.errors import RecipeError
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step, ViewSpec
from nnssl.needs import BodyMask
from nnssl.views.intensity.apply import apply_fixed
from nnssl_vox2vec import PAPER
from nnssl_vox2vec.views import GROUP, in_hounsfield, usual_window, view_spec

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Vox2VecConfig:
    """Numbers of vox2vec. "Published" is the paper's run; where the default differs, README.md says why.

    Attributes:
        values: `raw` (published: HU windows), or `plan`: what nnU-Net normalised and fine-tuning will see, windowed
            between percentiles like everything that is no CT.
        voxels: most positives of a pair of crops; published 1024.
        pairs_per_volume: pairs of crops from each volume of a batch; 1 (published text), all of them in its code.
        network: `plan` for nnU-Net's own, which transfers; `fpn3d` for the published one, which nnU-Net cannot take.
        fpn_width, fpn_levels: of `fpn3d`; published 16 and 6.
        loss: `ntxent` (published) or `vicreg`, its variant.
        temperature: tau of NT-Xent; published 0.1.
        weights: of VICReg's invariance, variance and covariance; published 25, 25, 1.
        hidden: width of the projector's hidden layers; 0 (published): as wide as the voxel vector.
        projection: width of its answer; 0 (published): 128 for NT-Xent, 8192 for VICReg.
        loss_rows: rows of similarities in memory at a time; changes no result.
        view_voxels: most voxels of a crop; published 32 x 128 x 128.
        published_views: 32 x 128 x 128 voxels of 2 x 1 x 1 mm whatever the plan's patch is.
        window: CT's HU window without chance; published -1350 to 1000.
        window_low, window_high: ranges of its random ends; published.
        window_probability: chance of random ends; published 0.8.
        percentiles: ends of the window elsewhere; not published, nor the jitter.
        percentile_jitter: random shift of each end as a share of the window.
        shape_probability: chance of blurring or sharpening in plane; published 0.5.
        blur_sigma, sharpen_sigma, sharpen: in voxels, in voxels, factor; published.
        noise_probability: published 0.5.
        noise: largest standard deviation as a share of the usual window; published 30 HU.
    """

    values: Literal["raw", "plan"] = "raw"
    voxels: int = 1024
    pairs_per_volume: int = 1
    network: Literal["plan", "fpn3d"] = "plan"
    fpn_width: int = 16
    fpn_levels: int = 6
    loss: Literal["ntxent", "vicreg"] = "ntxent"
    temperature: float = 0.1
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0)
    hidden: int = 0
    projection: int = 0
    loss_rows: int = 1024
    view_voxels: int = 32 * 128 * 128
    published_views: bool = False
    window: Range = (-1350.0, 1000.0)
    window_low: Range = (-1350.0, -1000.0)
    window_high: Range = (300.0, 1000.0)
    window_probability: float = 0.8
    percentiles: Range = (0.5, 99.5)
    percentile_jitter: float = 0.15
    shape_probability: float = 0.5
    blur_sigma: Range = (0.25, 1.5)
    sharpen_sigma: Range = (0.5, 1.0)
    sharpen: Range = (10.0, 30.0)
    noise_probability: float = 0.5
    noise: float = 30.0 / 2350.0

    def __post_init__(self) -> None:
        if min(self.voxels, self.pairs_per_volume, self.loss_rows) < 1:
            raise RecipeError("method.voxels, method.pairs_per_volume and method.loss_rows must be at least 1.")
        if self.temperature <= 0:
            raise RecipeError(f"method.temperature must be above 0; it is {self.temperature}.")


class Projector(nn.Module):
    """Linear, batch norm, ReLU, twice, then Linear; the batch norm spans all ranks and leaves out what is not counted.

    Attributes:
        layers: three linear layers.
        norms: two batch norms.
    """

    def __init__(self, width: int, *, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])
        self.norms = nn.ModuleList([BatchNorm(hidden), BatchNorm(hidden)])

    def forward(self, vectors: Tensor, counted: Tensor) -> Tensor:
        """(N, out) of (N, width) vectors, of which `counted` (N,) are real."""
        x = vectors
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = F.relu(norm(layer(x), counted))
        out: Tensor = self.layers[-1](x)
        return out


class Vox2Vec(Method):
    """Contrastive learning of voxels; encoder and decoder both transfer.

    Attributes:
        network: the pyramid network, nnU-Net's U-Net or an FPN3d.
        projector: g.
    """

    PAPER = PAPER
    Config = Vox2VecConfig
    config: Vox2VecConfig

    @classmethod
    def needs(cls, config: Vox2VecConfig) -> Needs:
        """Where the body is; negatives are other samples."""
        pairs = config.pairs_per_volume
        return Needs(values=config.values, sidecars=(BodyMask,), samples_per_case=pairs, batch_coupled=True)

    @classmethod
    def views(cls, config: Vox2VecConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """See `nnssl_vox2vec.views`."""
        return view_spec(config, plan, data)

    def __init__(self, config: Vox2VecConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        if config.network == "plan":
            self.network = networks.unet()
        else:
            self.network = networks.other("fpn3d", width=config.fpn_width, levels=config.fpn_levels)
        width = sum(self.network.channels)
        out = config.projection or (128 if config.loss == "ntxent" else 8192)
        self.projector = Projector(width, hidden=config.hidden or width, out=out)
        self.hounsfield = in_hounsfield(config, networks.data.modality)
        self.window = usual_window(config, networks.data.modality)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """NT-Xent or VICReg of the vectors of shared body voxels."""
        shared = self._positives(batch, step)
        counted = shared.counted.flatten()
        image = batch.views[GROUP].image
        by_view = self._maps(image)
        # Eq. 2: f(v) = concat_k F_k[v // s_k], s_k the cumulative stride of level k on each axis
        vectors = [
            pyramid_vectors(levels, self.network.strides, points).flatten(0, 1)
            for levels, points in zip(by_view, (shared.first, shared.second), strict=True)
        ]
        # Eq. 3: z = g(f) / |g(f)|; one call a view, whose batch norm sees that view alone, as published
        answers = [wide(self.projector(vector, counted)) for vector in vectors]
        return self._losses(answers, shared, step)

    def _maps(self, image: Tensor) -> list[list[Tensor]]:
        """The pyramids (B, C_k, d_k, h_k, w_k) of both views of (B, 2, C, D, H, W)."""
        if self.config.network == "fpn3d":  # whose batch norm sees one view at a time, as published
            return [self.network(image[:, view]) for view in range(2)]
        maps = self.network(image.flatten(0, 1))
        return [[one.reshape(*image.shape[:2], *one.shape[1:])[:, view] for one in maps] for view in range(2)]

    def _positives(self, batch: Batch, step: Step) -> SharedVoxels:
        """Eq. 1: up to m body voxels of the two crops' intersection, without replacement."""
        view = batch.views[GROUP]
        starts, size = crop_starts(view.to_source), view.image.shape[3:]
        lattices = batch.sources[view.source].sidecars[BodyMask.name]
        body = torch.stack([body_voxels(one, start[0], size) for one, start in zip(lattices, starts, strict=True)])
        usable = view.valid[:, :, 0].clone()
        usable[:, 0] &= body  # a voxel of the second crop is the same voxel of the case
        score = step.uniform("voxels", batch.keys, (body[0].numel(),))
        return shared_voxels(starts, usable, score, self.config.voxels)

    def _losses(self, answers: list[Tensor], shared: SharedVoxels, step: Step) -> Losses:
        """The chosen loss over all ranks, and what is logged of it."""
        config, counted = self.config, shared.counted.flatten()
        units = [F.normalize(answer, dim=1) for answer in answers]
        if config.loss == "vicreg":
            # Eq. 5: L = 25 invariance + 25 variance + 1 covariance, of answers that are not normalised
            found = vicreg(answers[0], answers[1], counted, weights=config.weights, gather=step.gather)
            total = found.pop("total")
            parts = {name: value.detach() for name, value in found.items()}
        else:
            # Eq. 4: L = mean_i (l_i + l'_i) / 2,
            # l_i = -z_i.z'_i / tau + log(sum_{j != i} exp(z_i.z_j / tau) + sum_j exp(z_i.z'_j / tau))
            total = nt_xent(
                units[0], units[1], counted, temperature=config.temperature, rows=config.loss_rows, gather=step.gather
            )
            parts = {}
        parts["retrieval"] = _retrieval([unit.detach() for unit in units], shared.counted)
        parts["voxels"] = shared.counted.sum(1).to(total.dtype).mean()
        return Losses(total=total, parts=parts, watch={"vectors": units[0].detach()})

    def features(self, image: Tensor) -> Features:
        """All decoder levels and the bottleneck of raw images in the usual window; their means side by side."""
        maps = self.network(apply_fixed(self.window, image))
        return Features(pyramid=tuple(maps), vector=torch.cat([pool(one) for one in maps], dim=1))

    def export_network(self) -> Exported:
        """Encoder and decoder; an FPN3d as a whole."""
        window = self.config.window if self.hounsfield else None
        if self.config.network == "fpn3d":
            return Exported(encoder=self.network, raw_window=window)
        return Exported(encoder=self.network.encoder, decoder=self.network, raw_window=window)


def _retrieval(units: list[Tensor], counted: Tensor) -> Tensor:
    """Share of the voxels of a first crop whose nearest voxel among those of its second crop is the same voxel."""
    first, second = (unit.reshape(*counted.shape, -1) for unit in units)
    with torch.autocast(first.device.type, enabled=False):  # neighbours differ in digits that bfloat16 has not
        similarity = torch.where(counted[:, None], first @ second.transpose(1, 2), -2.0)
    right = similarity.argmax(2) == torch.arange(counted.shape[1], device=counted.device)
    return (right & counted).sum() / counted.sum().clamp(min=1)
