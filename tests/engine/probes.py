"""Fake probe batches whose images hold the voxel coordinates they were cut from, so that exact features are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.sampling import transform_points
from nnssl.method import Batch, Exported, Features, Losses, Method, Needs, SourceInfo, Step, View, ViewSpec

SHAPE = (60, 50, 70)
SIZE = (16, 24, 16)
SPACING_MM = (3.0, 1.0, 0.5)


def case_of(key: int) -> tuple[str, tuple[int, int, int]]:
    """Three cases of one shape."""
    return f"case_{key % 3}", SHAPE


def voxel_grid(size: tuple[int, ...]) -> Tensor:
    """(D*H*W, 3) float64 voxel indices in raster order."""
    axes = [torch.arange(side, dtype=torch.float64) for side in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def view_matrix(rng: np.random.Generator, corner: Tensor) -> Tensor:
    """(4, 4) from voxels of a view to voxels of its case: a turn in the H-W plane, a zoom, a place."""
    angle, zoom = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.8, 1.25)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[1:3, 1:3] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:3, :3] *= zoom
    matrix[:3, 3] = corner + torch.from_numpy(rng.uniform(-2, 2, 3))
    return matrix


def coordinate_batch(keys: Tensor, *, air: bool = False) -> Batch:
    """Three channels: D H W of the case at every view voxel. With `air`, boxes of even keys hold a constant."""
    to_source = torch.empty(len(keys), 2, 4, 4, dtype=torch.float64)
    images = torch.empty(len(keys), 2, 3, *SIZE)
    for row, key in enumerate(keys.tolist()):
        rng = np.random.default_rng(key)
        corner = torch.from_numpy(rng.uniform(4, 24, 3))
        for number in range(2):
            to_source[row, number] = view_matrix(rng, corner)
            coordinates = transform_points(to_source[row, number], voxel_grid(SIZE))
            images[row, number] = coordinates.T.reshape(3, *SIZE).float()
        if air and key % 2 == 0:
            images[row] = -7.0
    to_world = torch.diag(torch.tensor([*SPACING_MM, 1.0], dtype=torch.float64)).repeat(len(keys), 1, 1)
    to_world[:, :3, 3] = torch.tensor([10.0, -20.0, 5.0])
    names = tuple(case_of(key)[0] for key in keys.tolist())
    source = SourceInfo(
        case_ids=names,
        subjects=names,
        to_world=to_world,
        spacing_mm=torch.tensor(SPACING_MM).repeat(len(keys), 1),
        box=torch.zeros(len(keys), 2, 3, dtype=torch.int64),
        anchor_mm=torch.zeros(len(keys), 3, dtype=torch.float64),
    )
    valid = torch.ones(len(keys), 2, 1, *SIZE, dtype=torch.bool)
    valid[:, 1, :, :, :5] = False  # the second view left the case on one side
    view = View(image=images, clean=None, valid=valid, mask=None, draws={}, source="case", to_source=to_source)
    return Batch(views={"probe": view}, sources={"case": source}, keys=keys)


class MapMethod(Method):
    """A method whose features are pooled images; `kind` says which ones it gives."""

    PAPER = "none"
    Config = SimpleNamespace

    def __init__(self, kind: str = "exact", strides: tuple[tuple[int, int, int], ...] = ((1, 1, 1),)) -> None:
        nn.Module.__init__(self)
        self.kind = kind
        self.strides = strides
        self.norm = nn.BatchNorm3d(4)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm3d(4).eval()
        self.asked: list[bool] = []

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs()

    @classmethod
    def views(cls, config: Any, plan: Any, data: Any) -> ViewSpec:
        raise NotImplementedError

    def forward(self, batch: Batch, step: Step) -> Losses:
        raise NotImplementedError

    def export_network(self) -> Exported:
        raise NotImplementedError

    def features(self, image: Tensor) -> Features:
        """(coordinates / 30, 1) at every cell: linear in the coordinates, so that interpolation is exact."""
        self.asked.append(torch.is_grad_enabled() or self.training)
        lifted = torch.cat((image / 30, torch.ones_like(image[:, :1])), dim=1)
        if self.kind == "constant":
            lifted = torch.ones_like(lifted) + 1e-6 * lifted
        if self.kind == "noise":
            lifted = torch.sin(1e4 * lifted)
        if self.kind == "layers":
            lifted = self.dropout(self.norm(lifted))
        pyramid = tuple(F.avg_pool3d(lifted, stride) for stride in self.strides)
        return Features(pyramid=pyramid, vector=lifted.mean((2, 3, 4)))
