"""The projector: cosines, unit rows, copies, batch norm where asked for."""

from __future__ import annotations

import copy

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
