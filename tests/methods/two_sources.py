"""A test method with two sources a sample: what differs between two cases (as Alice or VolumeFusion would look)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from nnssl.blocks.losses import wide
from nnssl.blocks.pooling import pool
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, PlanInfo, Step, ViewSpec
from nnssl.views.spec import Source, ViewGroup


@dataclass(frozen=True, kw_only=True)
class Config:
    """How strongly two views of one case are pulled together."""

    pull: float = 1.0


class TwoSources(Method):
    """Views of one case near each other, views of two cases apart."""

    PAPER = "test"
    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs(min_cases=2)

    @classmethod
    def views(cls, config: Any, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        size = plan.fit_view(limit=data.shape_quantiles[10])
        box = ((size[0], size[0] + 4), (size[1], size[1] + 4), (size[2], size[2] + 4))
        sources = (Source(name="mine", size=box), Source(name="other", pick="other", size=box))
        groups = (
            ViewGroup(name="a", source="mine", count=2, size=size),
            ViewGroup(name="b", source="other", size=size),
        )
        return ViewSpec(sources=sources, groups=groups)

    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.encoder = networks.encoder()
        self.project = nn.Linear(self.encoder.channels[-1], 8)

    def forward(self, batch: Batch, step: Step) -> Losses:
        (a1, a2), b = batch.views["a"].image.unbind(1), batch.views["b"].image[:, 0]
        one, two, three = (wide(self.project(pool(self.encoder(image)[-1]))) for image in (a1, a2, b))
        near, far = (one - two).square().sum(1), (one - three).square().sum(1)
        return Losses(total=(self.config.pull * near + (1 - far).relu()).mean(), parts={"near": near.mean().detach()})

    def features(self, image: Any) -> Features:
        maps = self.encoder(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1]))

    def export_network(self) -> Exported:
        return Exported(encoder=self.encoder)
