"""The heads of a voxel probe: as many parameters as vox2vec's, and functions of one voxel's vector alone."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn

from nnssl.evaluate.probe import heads as probe_heads
from nnssl.evaluate.probe.heads import LinearHead, NonLinearHead, enlarged, probe_loss

CHANNELS = (2, 3, 4)
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 4, 2))
SIZE = (4, 8, 6)


def maps(*, seed: int = 0, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, width, *(side // step for side, step in zip(SIZE, steps, strict=True)), generator=generator)
        for width, steps in zip(CHANNELS, STRIDES, strict=True)
    ]


def voxel_vector(levels: list[Tensor], sample: int, voxel: tuple[int, int, int]) -> Tensor:
    """All levels' values at floor(v / stride), side by side: vox2vec's f(v)."""
    parts = []
    for level, steps in zip(levels, STRIDES, strict=True):
        d, h, w = (at // step for at, step in zip(voxel, steps, strict=True))
        parts.append(level[sample, :, d, h, w])
    return torch.cat(parts)


def test_the_parameter_counts_are_those_of_the_paper() -> None:
    assert doctest.testmod(probe_heads).failed == 0
    assert doctest.testmod(probe_heads).attempted == 4


def test_the_linear_head_is_exactly_one_linear_layer_on_the_voxel_vector() -> None:
    torch.manual_seed(0)
    head = LinearHead(CHANNELS, STRIDES, classes=5).double()
    levels = [level.double() for level in maps()]
    layer = nn.Linear(sum(CHANNELS), 5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.cat([level.weight.flatten(1) for level in head.levels], dim=1))
        layer.bias.copy_(head.levels[0].bias)
        logits = head(levels)
        voxels = [(d, h, w) for d in range(4) for h in range(8) for w in range(6)]
        for sample in range(2):
            expected = layer(torch.stack([voxel_vector(levels, sample, voxel) for voxel in voxels]))
            torch.testing.assert_close(logits[sample].flatten(1).T, expected, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("head_class", [LinearHead, NonLinearHead])
def test_a_voxel_sees_its_own_cells_only(head_class: type[nn.Module]) -> None:
    """Changing cells that do not hold a voxel leaves its logits alone; changing those that do moves them."""
    torch.manual_seed(0)
    head = head_class(CHANNELS, STRIDES, classes=2).eval()
    levels = maps(batch=1)
    changed = [level.clone() for level in levels]
    for level, steps in zip(changed, STRIDES, strict=True):
        level[:, :, 0, : 4 // steps[1], : 2 // steps[2]] += 1
    with torch.no_grad():
        moved = (head(levels) - head(changed)).abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[:2, :4, :2] = True
    assert torch.equal(moved, expected)


def test_cut_maps_give_cut_logits() -> None:
    """So that cores of windows can be read without their surroundings."""
    torch.manual_seed(0)
    head = NonLinearHead(CHANNELS, STRIDES, classes=2).eval()
    levels = maps(batch=1)
    cut = [level[:, :, : 2 // steps[0], 4 // steps[1] :, 2 // steps[2] :] for level, steps in zip(levels, STRIDES)]  # noqa: B905
    with torch.no_grad():
        torch.testing.assert_close(head(cut), head(levels)[:, :, :2, 4:, 2:])


def test_upsampling_repeats_cells_axis_by_axis() -> None:
    values = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    assert enlarged(values, (2, 4, 2), (2, 2, 1))[0, 0].tolist() == [
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    ]
    assert enlarged(values, (1, 1, 1), (1, 1, 1)) is values


def test_the_first_level_may_be_coarser_than_voxels() -> None:
    head = LinearHead((2, 3), ((1, 2, 2), (2, 4, 4)), classes=1)
    assert head([torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 3, 2, 2, 2)]).shape == (1, 1, 4, 8, 8)


def test_the_loss_equals_a_loop_over_known_voxels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    targets = (torch.rand(2, 3, 2, 2, 2, generator=generator) > 0.5).double()
    known = (torch.rand(2, 1, 2, 2, 2, generator=generator) > 0.3).double()
    entropy, count, dice = 0.0, 0, 0.0
    for k in range(3):
        both = squares = 0.0
        for n in range(2):
            for p, g, seen in zip(
                torch.sigmoid(logits[n, k]).flatten().tolist(),
                targets[n, k].flatten().tolist(),
                known[n, 0].flatten().tolist(),
                strict=True,
            ):
                if seen:
                    entropy -= float(torch.tensor(p if g else 1 - p, dtype=torch.float64).log())
                    count += 1
                    both, squares = both + p * g, squares + p * p + g * g
        dice += 1 - 2 * both / (squares + 1)
    expected = entropy / count + dice / 3
    assert float(probe_loss(logits, targets, known)) == pytest.approx(expected, rel=1e-12)


def test_unknown_voxels_count_nowhere() -> None:
    logits = torch.randn(1, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    targets, known = torch.ones_like(logits), torch.ones(1, 1, 2, 2, 2)
    known[..., 0] = 0
    other = logits.clone()
    other[..., 0] += 5
    assert float(probe_loss(logits, targets, known)) == float(probe_loss(other, targets, known))
    assert float(probe_loss(logits, targets, known * 0)) == 1.0, "no known voxel: nothing to learn, nothing is NaN"
