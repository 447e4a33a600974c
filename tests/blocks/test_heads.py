"""The projector: cosines, unit rows, copies, batch norm where asked for."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.heads import DINOHead, HeadNorm, hold


def test_logits_are_cosines_and_rows_stay_of_length_one_while_training() -> None:
    torch.manual_seed(0)
    head = DINOHead(6, 40, hidden=16, bottleneck=8, norm="hidden")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    for _ in range(11):
        logits = head(torch.randn(8, 6))
        assert logits.abs().max() <= 1 + 1e-6
        torch.testing.assert_close(head.last_layer.effective_weight().norm(dim=1), torch.ones(40))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits / 0.1, torch.arange(8)).backward()
        optimizer.step()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_logits_equal_a_naive_loop_over_the_published_layers() -> None:
    torch.manual_seed(0)
    head = DINOHead(3, 5, hidden=4, bottleneck=2).double()
    with torch.no_grad():
        for parameter in head.mlp.parameters():
            parameter.normal_()  # far enough from 0 that GELU bends
    layers = [(m.weight.tolist(), m.bias.tolist()) for m in head.mlp if isinstance(m, nn.Linear)]
    assert [len(bias) for _, bias in layers] == [4, 4, 2]
    vectors = torch.randn(6, 3, dtype=torch.float64)
    for vector, logits in zip(vectors.tolist(), head(vectors).tolist(), strict=True):
        x = vector
        for number, (weight, bias) in enumerate(layers):
            x = [
                sum(a * b for a, b in zip(row, x, strict=True)) + shift for row, shift in zip(weight, bias, strict=True)
            ]
            if number < 2:
                x = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x]
        rows = head.last_layer.weight.tolist()
        cosines = [dot(row, x) / math.hypot(*row) / math.hypot(*x) for row in rows]
        assert logits == pytest.approx(cosines, rel=1e-10)


def test_hidden_layers_start_narrow_and_prototypes_as_torch_makes_them() -> None:
    torch.manual_seed(0)
    head = DINOHead(64, 256, hidden=128, bottleneck=32)
    for layer in head.mlp:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()
    prototypes = head.last_layer.weight
    assert 0.99 * 32**-0.5 < prototypes.abs().max() <= 32**-0.5
    assert prototypes.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.05)


def test_batch_norm_is_there_only_if_configured() -> None:
    def norms(norm: HeadNorm) -> list[int]:
        layers = DINOHead(6, 4, hidden=8, bottleneck=4, norm=norm).mlp
        return [index for index, layer in enumerate(layers) if isinstance(layer, BatchNorm)]

    assert [norms("none"), norms("hidden"), norms("ends")] == [[], [1, 4], [0, 6]]
    assert norms("everywhere") == [0, 2, 5, 8]


def test_held_prototypes_stay_under_momentum_and_decay() -> None:
    torch.manual_seed(0)
    head = DINOHead(6, 4, hidden=8, bottleneck=4)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(head.state_dict())
    head(torch.randn(3, 6)).square().sum().backward()
    hold([head.last_layer])
    optimizer.step()
    moved = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and "last_layer.weight" not in moved


def test_standardising_tells_nearly_equal_inputs_apart() -> None:
    torch.manual_seed(0)
    nearly_equal = torch.randn(1, 6) + 0.01 * torch.randn(16, 6)

    def spread(norm: HeadNorm) -> float:
        torch.manual_seed(1)
        return DINOHead(6, 40, hidden=16, bottleneck=8, norm=norm)(nearly_equal).std(0).mean().item()

    assert spread("ends") > 10 * spread("none")


def test_copy_of_a_used_head_is_independent() -> None:
    head = DINOHead(6, 4, hidden=8, bottleneck=4)
    head(torch.randn(3, 6)).sum().backward()
    twin = copy.deepcopy(head)
    with torch.no_grad():
        twin.last_layer.weight.add_(1.0)
    assert not torch.equal(twin.last_layer.weight, head.last_layer.weight)
    assert isinstance(head.last_layer.weight, nn.Parameter)
