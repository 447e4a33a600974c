"""The dense term: cells, which of them count, and the loss against a naive loop; the helpers of multi-crop."""

from __future__ import annotations

import pytest
import torch

from nnssl.blocks.center import Center
from nnssl.blocks.deferred import commit_all
from nnssl.blocks.masked import cells_of, counted_cross_entropy
from nnssl.blocks.multicrop import flat_views, warmed_up
from nnssl.testing_world import commit


def test_cross_entropy_equals_a_naive_loop_and_leaves_other_cells_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(3, 5, 4, generator=generator).double().softmax(-1)
    log_q = torch.randn(3, 5, 4, generator=generator).double().log_softmax(-1)
    counted = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    total = 0.0
    for n in range(3):
        hidden = [i for i in range(5) if counted[n, i]]
        for i in hidden:
            total -= sum(float(p[n, i, k] * log_q[n, i, k]) for k in range(4)) / len(hidden) / 3
    assert counted_cross_entropy(p, log_q, counted).item() == pytest.approx(total, rel=1e-12)
    other = torch.where(counted[..., None], p, torch.nan)
    assert counted_cross_entropy(other, log_q, counted).item() == pytest.approx(total, rel=1e-12)


def test_cells_are_blocks_of_the_stride_in_raster_order() -> None:
    voxels = torch.zeros(1, 1, 4, 4, 6, dtype=torch.bool)
    voxels[0, 0, 2:4, 0:2, 3:6] = True  # second cell of D, first of H, second of W
    voxels[0, 0, 0, 0, 0] = True
    shares = cells_of(voxels, (2, 2, 3))
    assert shares.shape == (1, 8)
    assert shares[0].tolist() == pytest.approx([1 / 12, 0, 0, 0, 0, 1, 0, 0])


def test_centre_leaves_out_what_does_not_count() -> None:
    center, plain = Center(3), Center(3)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    logits[1] = torch.nan
    counted = torch.tensor([True, False, True, True])
    center.observe(logits, counted)
    plain.observe(logits[counted])
    for one in (center, plain):
        commit_all(one, commit())
    torch.testing.assert_close(center.value, plain.value)
    center.observe(logits, torch.zeros(4, dtype=torch.bool))
    before = center.value.clone()
    commit_all(center, commit())
    assert torch.equal(center.value, before)


def test_flat_views_are_parted_again_by_chunk() -> None:
    x = torch.arange(12).reshape(3, 2, 2)
    first, second = flat_views(x).chunk(2)
    assert torch.equal(first, x[:, 0])
    assert torch.equal(second, x[:, 1])


def test_temperature_warms_up_linearly_and_a_short_warm_up_is_none() -> None:
    assert [warmed_up(e, (0.04, 0.07), epochs=4) for e in (0, 3, 9)] == [0.04, 0.07, 0.07]
    assert warmed_up(1, (0.04, 0.07), epochs=4) == pytest.approx(0.05)
    assert [warmed_up(0, (0.04, 0.07), epochs=epochs) for epochs in (0, 1)] == [0.07, 0.07]
