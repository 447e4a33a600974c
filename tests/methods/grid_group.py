"""A test method with a grid of base crops and a random crop: predict their overlap (as VoCo would look)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks.losses import wide
from nnssl.blocks.pooling import pool
from nnssl.method import Batch, DataInfo, Exported, Features, Losses, Method, Needs, PlanInfo, Step, View, ViewSpec
from nnssl.views.spec import Source, ViewGroup


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base crops per axis D H W."""

    grid: tuple[int, int, int] = (1, 2, 2)


class GridGroup(Method):
    """Similarity of a random crop to each base crop should be the share of it that lies in that base crop."""

    PAPER = "test"
    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs()

    @classmethod
    def views(cls, config: Any, plan: PlanInfo, data: DataInfo) -> ViewSpec:
        size = plan.fit_view(limit=[s / g for s, g in zip(data.shape_quantiles[10], config.grid, strict=True)])
        box = [(side * tiles,) * 2 for side, tiles in zip(size, config.grid, strict=True)]
        tiles = config.grid[0] * config.grid[1] * config.grid[2]
        base = ViewGroup(name="base", count=tiles, size=size, place="grid", grid=config.grid)
        return ViewSpec(
            sources=(Source(size=(box[0], box[1], box[2])),), groups=(base, ViewGroup(name="random", size=size))
        )

    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.encoder = networks.encoder()

    def forward(self, batch: Batch, step: Step) -> Losses:
        base, random = batch.views["base"], batch.views["random"]
        one, many = (wide(pool(self.encoder(v.image.flatten(0, 1))[-1])) for v in (random, base))
        many = many.unflatten(0, base.image.shape[:2])
        similarity = F.cosine_similarity(one[:, None], many, dim=-1)
        return Losses(total=(similarity - overlap(random, base).to(similarity)).square().mean())

    def features(self, image: Any) -> Features:
        maps = self.encoder(image)
        return Features(pyramid=tuple(maps), vector=pool(maps[-1]))

    def export_network(self) -> Exported:
        return Exported(encoder=self.encoder)


def overlap(a: View, b: View) -> Tensor:
    """(B, V) share of view a's volume inside each view of b, for views that are only shifted."""
    size = a.to_source.new_tensor(a.image.shape[-3:])
    shift = (a.to_source[..., :3, 3] - b.to_source[..., :3, 3]).abs()
    return (1 - shift / size).clamp(min=0).prod(-1)
