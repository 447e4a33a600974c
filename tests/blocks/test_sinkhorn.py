"""Sinkhorn-Knopp targets against a naive loop, and over two ranks."""

from __future__ import annotations

import math

import pytest
import torch

from nnssl.blocks.sinkhorn import sinkhorn


def naive(rows: list[list[float]], temperature: float, iterations: int) -> list[list[float]]:
    """Q[k][n] = exp(t / tau); rows over K, columns over N, times N."""
    n, k = len(rows), len(rows[0])
    q = [[math.exp(rows[i][j] / temperature) for i in range(n)] for j in range(k)]
    for _ in range(iterations):
        q = [[value / sum(row) / k for value in row] for row in q]
        columns = [sum(q[j][i] for j in range(k)) for i in range(n)]
        q = [[q[j][i] / columns[i] / n for i in range(n)] for j in range(k)]
    return [[q[j][i] * n for j in range(k)] for i in range(n)]


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_it_equals_a_naive_loop(iterations: int) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sinkhorn(logits, temperature=0.3, iterations=iterations)
    wanted = torch.tensor(naive(logits.tolist(), 0.3, iterations), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_every_sample_sums_to_one_and_prototypes_are_used_equally() -> None:
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + torch.arange(8.0)
    found = sinkhorn(logits, temperature=0.5, iterations=50)
    torch.testing.assert_close(found.sum(1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(found.mean(0), torch.full((8,), 1 / 8, dtype=torch.float64), rtol=1e-3, atol=0)


def test_samples_that_do_not_count_change_nothing_and_get_zeros() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counted = torch.tensor([True, False, True, True, False, True, True])
    found = sinkhorn(logits, temperature=0.3, counted=counted)
    torch.testing.assert_close(found[counted], sinkhorn(logits[counted], temperature=0.3), rtol=1e-9, atol=1e-12)
    assert not found[~counted].any()


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [999.0, 998.0]])
    found = sinkhorn(logits, temperature=1.0)
    assert found.isfinite().all()
    assert not found.requires_grad
