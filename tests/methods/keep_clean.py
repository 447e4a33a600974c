"""A test method with `keep_clean`: undo the intensity operations (as Models Genesis would look)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from nnssl.blocks.losses import counted_mean_squared_error
from nnssl.blocks.pooling import pool
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, PlanInfo, Step, ViewSpec
from nnssl.views.intensity import Gamma, GaussianNoise
from nnssl.views.spec import Intensity, Source, ViewGroup


@dataclass(frozen=True, kw_only=True)
class Config:
    """Standard deviation of the noise to be undone."""

    noise: float = 0.3


class KeepClean(Method):
    """Give back the view before the intensity operations."""

    PAPER = "test"
    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs()

    @classmethod
    def views(cls, config: Any, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        size = plan.fit_view(limit=data.shape_quantiles[10])
        noise = Intensity(ops=(GaussianNoise((0.0, config.noise)), Gamma((0.7, 1.5), probability=0.5)))
        group = ViewGroup(name="crop", size=size, intensity=noise, keep_clean=True)
        return ViewSpec(sources=(Source(size=((size[0],) * 2, (size[1],) * 2, (size[2],) * 2)),), groups=(group,))

    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.unet = networks.unet()
        self.to_voxels = nn.Conv3d(self.unet.channels[0], networks.plan.channels, 1)

    def forward(self, batch: Batch, step: Step) -> Losses:
        view = batch.views["crop"]
        prediction = self.to_voxels(self.unet(view.image[:, 0])[0])
        return Losses(total=counted_mean_squared_error(prediction, view.clean[:, 0], view.valid[:, 0]))

    def features(self, image: Any) -> Features:
        maps = self.unet(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1]))

    def export_network(self) -> Exported:
        return Exported(encoder=self.unet.encoder, decoder=self.unet)
