"""MAE: predict the hidden voxels of a volume from the visible ones, with the plan's own U-Net.

He et al.: "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, for convolutional U-Nets as
benchmarked by Wald et al. 2024, arXiv:2410.23132; `sparse` after Tian et al. 2023 (SparK), arXiv:2301.03580.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnssl.blocks.losses import counted_mean_squared_error, wide
from nnssl.blocks.pooling import pool
from nnssl.blocks.sparse import visible_at, visible_only
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, Networks, PlanInfo, Step, ViewSpec
from nnssl.views.spec import BlockMask, Geometry, Size, Source, ViewGroup
from nnssl_mae import PAPER

LARGEST_BLOCK = 16  # voxels a side; He et al.'s patches


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Numbers of MAE.

    Attributes:
        ratio: range of the hidden share of blocks; He et al. 0.75, for U-Nets 0.6 to 0.75.
        block: side of a hidden block D H W in voxels; empty: the encoder's largest cumulative stride up to 16, with
            `sparse` its total stride (then a block covers whole cells of every stage).
        sparse: the encoder sees visible cells alone, and learned tokens fill the gaps for the decoder (SparK).
        flip: chance of mirroring per axis D H W.
    """

    ratio: tuple[float, float] = (0.6, 0.75)
    block: tuple[int, ...] = ()
    sparse: bool = False
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0 < self.ratio[0] <= self.ratio[1] < 1:
            raise RecipeError(f"method.ratio needs 0 < low <= high < 1; found {self.ratio}.")
        if self.block and (len(self.block) != 3 or min(self.block) < 1):
            raise RecipeError(f"method.block needs three positive sizes D,H,W or none; found {self.block}.")


class MAE(Method):
    """Masked autoencoding; encoder and decoder both transfer."""

    PAPER = PAPER
    Config = MAEConfig
    config: MAEConfig

    @classmethod
    def needs(cls, config: MAEConfig) -> Needs:
        """The plan's normalised voxels; samples do not mix."""
        return Needs()

    @classmethod
    def views(cls, config: MAEConfig, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        """One mirrored crop of the plan's patch with hidden blocks; no other augmentation (He et al., table 1e)."""
        size = plan.fit_view(limit=data.shape_quantiles[10])
        block = block_size(config, plan)
        if any(side % b for side, b in zip(size, block, strict=True)):
            raise PlanError(f"method.block {block} must divide the view {size} on each axis; use a divisor.")
        group = ViewGroup(
            name="crop",
            size=size,
            geometry=Geometry(flip=config.flip),
            mask=BlockMask(block=block, ratio=config.ratio),
        )
        return ViewSpec(sources=(Source(size=((size[0],) * 2, (size[1],) * 2, (size[2],) * 2)),), groups=(group,))

    def __init__(self, config: MAEConfig, networks: Networks) -> None:
        super().__init__(config, networks)
        self.unet = networks.unet()
        self.to_voxels = nn.Conv3d(self.unet.channels[0], networks.plan.channels, kernel_size=1)
        widths = self.unet.encoder.channels if config.sparse else ()
        self.tokens = nn.ParameterList([nn.Parameter(torch.zeros(1, width, 1, 1, 1)) for width in widths])

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Mean squared error on hidden voxels inside the case."""
        view = batch.views["crop"]
        if view.mask is None:
            raise PlanError("MAE needs views with hidden blocks (View.mask); its view specification asks for them.")
        image, hidden, valid = (x.flatten(0, 1) for x in (view.image, view.mask, view.valid))
        prediction = self.to_voxels(self._decoded(image, ~hidden))
        # Eq. 1: L = mean_n 1/|M_n| sum_{v in M_n} (x_v - y_v)^2, M_n the hidden voxels of sample n inside its case
        return Losses(total=counted_mean_squared_error(prediction, wide(image), hidden & valid))

    def _decoded(self, image: Tensor, visible: Tensor) -> Tensor:
        """(N, C, D, H, W) finest decoder map of the visible part of `image`."""
        seen = torch.where(visible, image, 0.0)  # 0 is the mean of normalised voxels
        if not self.config.sparse:
            finest: Tensor = self.unet(seen)[0]
            return finest
        with visible_only(self.unet.encoder, visible):
            maps = self.unet.encoder(seen)
        # Eq. 2: hidden cells of every skip connection become a learned token (Tian et al. 2023, section 3.2)
        filled = [
            torch.where(visible_at(visible, m.shape[2:]), m, token.to(m.dtype))
            for m, token in zip(maps, self.tokens, strict=True)
        ]
        finest = self.unet.decoder(filled)[0]
        return finest

    def parameter_groups(self) -> list[dict[str, object]]:
        """No weight decay on biases, gains and tokens."""
        plain = [p for p in self.parameters() if p.ndim <= 1 or any(p is token for token in self.tokens)]
        decayed = [p for p in self.parameters() if all(p is not other for other in plain)]
        return [{"params": decayed}, {"params": plain, "weight_decay_factor": 0.0}]

    def features(self, image: Tensor) -> Features:
        """All decoder levels of the whole image, and the pooled bottleneck."""
        maps = self.unet(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1]))

    def export_network(self) -> Exported:
        """Encoder and decoder."""
        return Exported(encoder=self.unet.encoder, decoder=self.unet)


def block_size(config: MAEConfig, plan: PlanInfo) -> Size:
    """Side of a hidden block D H W: strides of the encoder, so that thick slices give flat blocks."""
    if config.block:
        return config.block[0], config.block[1], config.block[2]
    if config.sparse:
        return plan.total_stride
    d, h, w = (max(stride[a] for stride in plan.strides if stride[a] <= LARGEST_BLOCK) for a in range(3))
    return d, h, w
