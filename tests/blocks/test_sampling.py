"""Where a voxel lies in the maps of a pyramid: a map that holds coordinates gives them back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nnssl.blocks.sampling import sample_map, transform_points, voxel_vectors

SIZE = (16, 24, 32)


def coordinate_map(stride: tuple[int, int, int]) -> Tensor:
    """(3, d, h, w): every cell holds the voxel index of its centre, k s + (s - 1) / 2."""
    axes = [torch.arange(n // s) * s + (s - 1) / 2 for n, s in zip(SIZE, stride, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).double()


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 4, 8), (4, 8, 2)])
def test_a_map_of_cell_centres_gives_back_the_points(stride: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    size, steps = torch.tensor(SIZE).double(), torch.tensor(stride).double()
    inner = size - steps  # between the centres of the outermost cells interpolation is exact
    points = (steps - 1) / 2 + torch.rand(50, 3, generator=generator, dtype=torch.float64) * inner
    torch.testing.assert_close(sample_map(coordinate_map(stride), points, SIZE), points, rtol=0, atol=1e-10)


def test_points_in_the_border_take_the_border_cell() -> None:
    corner = sample_map(coordinate_map((4, 4, 4)), torch.tensor([[0.0, 0.0, 0.0], [15.0, 23.0, 31.0]]), SIZE)
    torch.testing.assert_close(corner, torch.tensor([[1.5, 1.5, 1.5], [13.5, 21.5, 29.5]]).double())


def test_every_map_weighs_the_same_in_a_voxel_vector() -> None:
    maps = [torch.randn(4, 16, 24, 32), 100 * torch.randn(8, 8, 12, 16)]
    vectors = voxel_vectors(maps, torch.tensor([[3.0, 4.0, 5.0]]), SIZE)
    assert vectors.shape == (1, 12)
    assert vectors[:, :4].norm() == pytest.approx(0.5**0.5, rel=1e-5)
    assert vectors[:, 4:].norm() == pytest.approx(0.5**0.5, rel=1e-5)


def test_points_move_with_an_affine_matrix() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.diag(torch.tensor([2.0, 3.0, 4.0]))
    matrix[:3, 3] = torch.tensor([1.0, 0.0, -1.0])
    moved = transform_points(matrix, torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert moved.tolist() == [[3.0, 3.0, 3.0], [1.0, 0.0, -1.0]]
