"""Shared voxels of two crops and voxel vectors of pyramids: whole numbers throughout, against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnssl.blocks.voxels import body_voxels, crop_starts, pyramid_vectors, shared_voxels

SIZE = (4, 6, 5)


def choose(starts: Tensor, usable: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    score = torch.rand(len(starts), usable[0, 0].numel(), generator=torch.Generator().manual_seed(seed))
    found = shared_voxels(starts, usable, score, count)
    return found.first, found.second, found.counted


@settings(max_examples=60, deadline=None)
@given(
    shift=st.tuples(st.integers(-5, 5), st.integers(-7, 7), st.integers(-6, 6)),
    count=st.sampled_from([1, 7, 30, 500]),
    share=st.sampled_from([0.2, 1.0]),
    seed=st.integers(0, 99),
)
def test_pairs_are_the_same_voxels_of_the_case_and_as_many_as_there_are(shift, count, share, seed) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([[[9, 9, 9], [9 + shift[0], 9 + shift[1], 9 + shift[2]]]])
    usable = torch.rand(1, 2, *SIZE, generator=generator) < share
    first, second, counted = choose(starts, usable, count, seed)
    candidates = {
        tuple(one)
        for one in np.argwhere(usable[0, 0].numpy()).tolist()
        if all(0 <= i - d < side for i, d, side in zip(one, shift, SIZE, strict=True))
        and bool(usable[0, 1][tuple(i - d for i, d in zip(one, shift, strict=True))])
    }
    chosen = [tuple(one) for one in first[counted].tolist()]
    assert len(chosen) == len(set(chosen)) == min(count, len(candidates))
    assert set(chosen) <= candidates
    assert torch.equal((first + starts[:, :1])[counted], (second + starts[:, 1:])[counted])
    for points in (first, second):
        assert (points >= 0).all() and (points < torch.tensor(SIZE)).all()


def test_every_shared_voxel_is_chosen_equally_often_and_samples_do_not_mix() -> None:
    starts = torch.tensor([[[0, 0, 0], [2, 0, 0]], [[5, 5, 5], [5, 5, 5]]])
    usable = torch.ones(2, 2, *SIZE, dtype=torch.bool)
    hits = torch.zeros(2, *SIZE)
    for seed in range(400):
        first, _, counted = choose(starts, usable, 30, seed)
        assert counted.all()
        for sample in range(2):
            hits[sample][tuple(first[sample].T)] += 1
    assert not hits[0, :2].any()
    assert abs(hits[0, 2:] / 400 - 0.5).max() < 0.12
    assert abs(hits[1] / 400 - 0.25).max() < 0.12


def test_body_voxels_are_those_of_the_nearest_lattice_point() -> None:
    shape, stride = (10, 13, 9), (2, 3, 4)
    first = [(s - 1) // 2 for s in stride]
    points = [len(range(f, side, s)) for f, side, s in zip(first, shape, stride, strict=True)]
    mask = torch.rand(*points, generator=torch.Generator().manual_seed(0)) < 0.5
    lattice = {"mask": mask, "stride": torch.tensor(stride), "first": torch.tensor(first)}
    start = torch.tensor([3, 4, 2])
    found = body_voxels(lattice, start, (7, 9, 7))
    for index in np.ndindex(7, 9, 7):
        voxel = start.numpy() + index
        nearest = [
            min(range(count), key=lambda c: abs(f + (s - 1) % 2 / 2 + s * c - v))
            for v, f, s, count in zip(voxel, first, stride, points, strict=True)
        ]
        assert found[index] == mask[tuple(nearest)], (voxel, nearest)


def test_a_start_is_the_translation_of_an_exact_crop() -> None:
    to_source = torch.eye(4, dtype=torch.float64).repeat(2, 2, 1, 1)
    to_source[1, 0, :3, 3] = torch.tensor([3.0, -2.0, 7.0])
    assert crop_starts(to_source)[1, 0].tolist() == [3, -2, 7]


@pytest.mark.parametrize(
    "strides", [((1, 1, 1), (2, 2, 2), (4, 4, 4)), ((1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)), ((1, 2, 2),)]
)
def test_voxel_vectors_are_those_of_maps_blown_up_to_the_image(strides: tuple[tuple[int, int, int], ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    size, widths = (8, 16, 24), range(3, 3 + len(strides))
    maps = [
        torch.randn(2, width, *(side // s for side, s in zip(size, stride, strict=True)), generator=generator)
        for width, stride in zip(widths, strides, strict=True)
    ]
    points = torch.stack([torch.randint(0, side, (2, 50), generator=generator) for side in size], dim=-1)
    vectors = pyramid_vectors(maps, strides, points)
    assert vectors.shape == (2, 50, sum(widths))
    full = torch.cat([F.interpolate(one, size=size, mode="nearest") for one in maps], dim=1)
    for sample in range(2):
        d, h, w = points[sample].T
        torch.testing.assert_close(vectors[sample], full[sample, :, d, h, w].T, rtol=0, atol=0)


def test_a_linear_head_on_the_maps_is_one_linear_layer_on_the_voxel_vector() -> None:
    """Levels' 1^3 convolutions, blown up and summed: what the paper calls its linear head."""
    generator = torch.Generator().manual_seed(0)
    strides, size = ((1, 1, 1), (1, 2, 2), (2, 4, 4)), (4, 8, 8)
    maps = [
        torch.randn(1, 3, *(a // b for a, b in zip(size, s, strict=True)), generator=generator, dtype=torch.float64)
        for s in strides
    ]
    weights = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in strides]
    logits = sum(
        F.interpolate(torch.einsum("kc,ncdhw->nkdhw", weight, one), size=size, mode="nearest")
        for weight, one in zip(weights, maps, strict=True)
    )
    points = torch.from_numpy(np.argwhere(np.ones(size))).long()[None]
    linear = pyramid_vectors(maps, strides, points) @ torch.cat(weights, dim=1).T
    torch.testing.assert_close(linear[0].T.reshape(1, 5, *size), logits)
    changed = [one.clone() for one in maps]
    changed[2][0, :, 1, 0, 1] += 1.0  # the cell of voxels 2..3, 0..3, 4..7
    moved = (pyramid_vectors(changed, strides, points) != pyramid_vectors(maps, strides, points)).any(-1)
    inside = ((points >= torch.tensor([2, 0, 4])) & (points <= torch.tensor([3, 3, 7]))).all(-1)
    assert torch.equal(moved, inside)
