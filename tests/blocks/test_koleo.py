"""KoLeo against a naive loop and known numbers."""

from __future__ import annotations

import math

import pytest
import torch

from nnssl.blocks.koleo import koleo


def test_it_equals_a_naive_loop() -> None:
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = [[v / math.hypot(*row) for v in row] for row in vectors.tolist()]
    total = 0.0
    for i, one in enumerate(unit):
        total -= math.log(min(math.dist(one, other) for j, other in enumerate(unit) if j != i)) / 7
    assert koleo(vectors).item() == pytest.approx(total, rel=1e-6)


def test_opposite_corners_and_equal_vectors_have_the_known_values() -> None:
    assert koleo(torch.tensor([[3.0, 0.0], [-0.5, 0.0]])).item() == pytest.approx(-math.log(2.0), abs=1e-6)
    equal = torch.ones(8, 4, requires_grad=True)
    value = koleo(equal)
    value.backward()
    assert 15 < value.item() < 19  # the floor of epsilon, not infinity
    assert equal.grad is not None
    assert equal.grad.isfinite().all()


def test_descending_it_drives_neighbours_apart() -> None:
    vectors = (torch.ones(8, 3) + 0.1 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = torch.pdist(torch.nn.functional.normalize(vectors, dim=1)).min().item()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(koleo(vectors), vectors)
        vectors = (vectors - 0.05 * gradient).detach().requires_grad_()
    assert torch.pdist(torch.nn.functional.normalize(vectors, dim=1)).min().item() > 3 * before


def test_it_is_single_precision_inside_autocast() -> None:
    # cosines of .999: in half precision all are 1, and the nearest neighbour is any
    vectors = 1 + 0.02 * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = koleo(vectors)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, koleo(vectors))
