"""Matching by embeddings of a trained AnatEmbed: the cell of the other scan whose vector is most alike.

Written for any method whose `features` are maps of unit vectors and whose file keeps its heads.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.evaluate.features import check_channels, embed, preparation
from nnssl.match.cases import MatchCase, Points
from nnssl.match.matcher import Matched, Matcher
from nnssl.match.network import EmbeddingPyramid, load_embeddings
from nnssl.planning.orientation import reoriented
from nnssl.planning.preprocess import onto_grid

_VERSION = "1"
KEPT_BYTES = 4 << 30  # of embeddings in memory: a scan of 200 x 200 x 200 voxels of 2 mm takes half a gigabyte
CHUNK = 65_536  # cells compared at a time
USUAL = "SPL"  # feet to head, front to back, right to left: where nothing is recorded


@dataclass(frozen=True, eq=False)
class Embedded:
    """One scan's embeddings.

    Attributes:
        vectors: (N, C) half precision, N cells in raster order; products are the similarity S.
        size: d h w cells.
        stride: voxels D H W of a cell.
        to_world: (4, 4) from voxel to mm.
        shape: D H W voxels.
        candidates: (M,) cells that lie in the body.
    """

    vectors: Tensor
    size: tuple[int, int, int]
    stride: tuple[int, int, int]
    to_world: npt.NDArray[np.float64]
    shape: tuple[int, ...]
    candidates: Tensor

    def cells(self, points_mm: Points) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(P,) the cell of every point, and whether it lies in the scan."""
        voxel, inside = self._voxels(points_mm)
        stride = np.array(self.stride)
        cell = np.clip(np.rint((voxel - (stride - 1) / 2) / stride).astype(np.int64), 0, np.array(self.size) - 1)
        return np.asarray(np.ravel_multi_index(tuple(cell.T), self.size)), np.asarray(inside)

    def centres_mm(self, cells: npt.NDArray[np.int64]) -> Points:
        """(P, 3) centres of cells."""
        stride = np.array(self.stride)
        voxel = np.stack(np.unravel_index(cells, self.size), -1) * stride + (stride - 1) / 2
        return np.asarray(voxel @ self.to_world[:3, :3].T + self.to_world[:3, 3])

    def brought_in(self, points_mm: Points) -> Points:
        """(P, 3) the points, those outside of the scan at the centre of the nearest voxel."""
        voxel, inside = self._voxels(points_mm)
        border = np.clip(voxel, 0, np.array(self.shape) - 1) @ self.to_world[:3, :3].T + self.to_world[:3, 3]
        return np.where(inside[:, None], points_mm, border)

    def _voxels(self, points_mm: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
        """(P, 3) index D H W of every point, not whole, and whether it lies in the scan."""
        voxel = np.linalg.solve(self.to_world, np.column_stack([points_mm, np.ones(len(points_mm))]).T).T[:, :3]
        return np.asarray(voxel, np.float64), np.asarray(
            ((voxel >= -0.5) & (voxel <= np.array(self.shape) - 0.5)).all(axis=1)
        )


class SamMatcher(Matcher):
    """S(v) = (F(u).F'(v) + C(u).C'(v)) / 2, match = argmax over the body's cells (Yan et al. 2022, section III-C).

    A point keeps its offset from the centre of its cell. Scans are turned to lie as the scans of the pretraining did,
    so that the file's axes do not matter.
    """

    name = "sam"
    unsure_share = 0.3  # scores of two trainings differ, so no number will do for all

    def __init__(self, weights: str | Path, *, device: str = "cpu") -> None:
        """Load the network.

        Raises:
            DataError: the file cannot be read, or holds no embeddings.
        """
        super().__init__()
        self._device = device
        self._network: EmbeddingPyramid = load_embeddings(Path(weights)).to(device)
        self._plan = preparation(self._network.weights)
        self._kept: OrderedDict[str, Embedded] = OrderedDict()

    def match(self, case_a: str, points_mm: Points, case_b: str) -> Matched:
        """The most similar cell of the other body."""
        a, b = self._embedded(case_a), self._embedded(case_b)
        start, inside = a.cells(points_mm)
        cell, score = _most_alike(a.vectors[torch.from_numpy(start)], b, self._device)
        # a border cell's centre and the point's offset from its own may lie beyond the last voxel
        answers = b.brought_in(b.centres_mm(cell) + points_mm - a.centres_mm(start))
        return Matched(answers, score, inside)

    def fingerprint(self) -> str:
        """Of the weights file and of this module."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = self._network.weights.path.read_bytes()
        return hashlib.sha256(_VERSION.encode() + content).hexdigest()[:12]

    def _embedded(self, case_id: str) -> Embedded:
        if case_id not in self._kept:
            self._kept[case_id] = self._embed(self.case(case_id))
            while len(self._kept) > 2 and sum(one.vectors.nbytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(case_id)
        return self._kept[case_id]

    def _embed(self, case: MatchCase) -> Embedded:
        """All cells of a scan."""
        network, transpose = self._network, self._plan.transpose
        check_channels(case.files, self._plan)
        stored = network.orientation or USUAL
        as_read = "".join(stored[transpose.index(axis)] for axis in range(3))
        grid = onto_grid(reoriented(case.read(), as_read), self._plan, keep_raw=network.raw)
        image = torch.from_numpy(grid.raw if network.raw and grid.raw is not None else grid.data)
        pyramid: Any = network  # a pyramid like those of nnssl.load_encoder
        maps = embed(pyramid, image, keep=range(network.embeddings), device=self._device).maps
        vectors = side_by_side([maps[level] for level in range(network.embeddings)], network.strides)
        size = (maps[0].shape[1], maps[0].shape[2], maps[0].shape[3])
        made = Embedded(vectors, size, network.strides[0], grid.to_world, image.shape[1:], torch.arange(len(vectors)))
        cells = np.arange(len(vectors))
        centres = made.centres_mm(cells)
        half = made.to_world[:3, :3] * (np.array(made.stride) / 2)
        # every cell that touches the body, or a point on the skin would have no cell to be matched to
        around = [half @ np.array(corner) for corner in itertools.product((-1, 0, 1), repeat=3)]
        inside = np.logical_or.reduce([case.scout.in_body(centres + offset) for offset in around])
        return replace(made, candidates=torch.from_numpy(cells[inside] if inside.any() else cells))


def side_by_side(maps: Sequence[Tensor], strides: Sequence[tuple[int, int, int]]) -> Tensor:
    """(N, sum of C) half: all maps at the finest one's N cells, each of length 1, over the root of their number.

    Args:
        maps: (C_k, d_k, h_k, w_k), finest first.
        strides: cumulative, D H W, of each.
    """
    size, parts = maps[0].shape[1:], []
    for one, stride in zip(maps, strides, strict=False):
        # whole coarse cells first: the last of them may reach beyond the finest map
        factor = [coarse // fine for coarse, fine in zip(stride, strides[0], strict=True)]
        whole = [side * times for side, times in zip(one.shape[1:], factor, strict=True)]
        if max(factor) > 1:
            one = F.interpolate(one[None].float(), size=whole, mode="trilinear", align_corners=False)[0]
        cut = one[:, : size[0], : size[1], : size[2]]
        parts.append((F.normalize(cut.float(), dim=0) / len(maps) ** 0.5).flatten(1).T.half())
    return torch.cat(parts, dim=1)


def _most_alike(queries: Tensor, there: Embedded, device: str) -> tuple[npt.NDArray[np.int64], Points]:
    """(P,) candidate cell with the largest product, and that product."""
    wanted = queries.to(device).float()
    best = torch.full((len(wanted),), -2.0, device=device)
    cell = torch.zeros(len(wanted), dtype=torch.int64, device=device)
    for start in range(0, len(there.candidates), CHUNK):
        candidates = there.candidates[start : start + CHUNK]
        value, place = (wanted @ there.vectors[candidates].to(device).float().T).max(1)
        better = value > best
        best, cell = torch.where(better, value, best), torch.where(better, candidates.to(device)[place], cell)
    return cell.cpu().numpy(), best.cpu().double().numpy()
