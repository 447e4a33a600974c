"""Optimizers that a device-side flag can switch off, and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.engine.optim import Schedule, build_optimizer, clip, gated_step, gradients
from nnssl.engine.recipe import Global, Optimizer, PerTensor, Recipe
from nnssl.errors import PluginError


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def step(model: nn.Linear, optimizer: torch.optim.Optimizer, seed: int, *, applied: bool) -> None:
    torch.manual_seed(seed)
    model(torch.randn(5, 4)).square().mean().backward()
    if not applied:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(torch.nan)
    gated_step(optimizer, torch.tensor(applied))
    optimizer.zero_grad()


def made(name: str) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = network()
    settings = Optimizer(name="adamw" if name == "adamw" else "sgd", lr=0.1, warmup_epochs=0, weight_decay=0.1)
    optimizer = build_optimizer([{"params": list(model.parameters())}], settings)
    Schedule(Recipe(optimizer=settings)).apply(optimizer, 0)
    return model, optimizer


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("dropped", [0, 1])
def test_dropped_step_leaves_no_trace(name: str, dropped: int) -> None:
    model, optimizer = made(name)
    other, reference = made(name)
    for number in range(4):
        step(model, optimizer, number, applied=number != dropped)
        if number != dropped:
            step(other, reference, number, applied=True)
    for parameter, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, wanted)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_applied_steps_are_torch_s_own(name: str) -> None:
    model, optimizer = made(name)
    other = network()
    plain: torch.optim.Optimizer
    if name == "adamw":
        plain = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.1)
    else:
        plain = torch.optim.SGD(other.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    for number in range(5):
        step(model, optimizer, number, applied=True)
        torch.manual_seed(number)
        other(torch.randn(5, 4)).square().mean().backward()
        plain.step()
        plain.zero_grad()
    for parameter, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted)


def test_per_tensor_clipping_knows_no_neighbour() -> None:
    large, small = torch.full((4,), 10.0), torch.full((4,), 0.01)
    norm = clip([large, small], PerTensor(0.3))
    assert large.norm().item() == pytest.approx(0.3, rel=1e-4)
    assert torch.equal(small, torch.full((4,), 0.01))
    assert norm.item() == pytest.approx((4 * 100 + 4e-4) ** 0.5)


def test_global_clipping_scales_all_alike() -> None:
    grads = [torch.full((4,), 3.0), torch.full((4,), 4.0)]
    clip(grads, Global(1.0))
    assert torch.cat(grads).norm().item() == pytest.approx(1.0, rel=1e-4)
    assert (grads[1] / grads[0]).mean().item() == pytest.approx(4 / 3)


def test_clipping_below_the_limit_changes_nothing_and_the_norm_shows_what_is_not_finite() -> None:
    grads = [torch.tensor([0.1, 0.2])]
    assert clip(grads, None).isfinite() and clip(grads, Global(1.0)).isfinite()
    assert torch.equal(grads[0], torch.tensor([0.1, 0.2]))
    assert not clip([torch.tensor([1.0, torch.inf])], Global(1.0)).isfinite()
    assert not clip([torch.tensor([1.0]), torch.tensor([torch.nan])], PerTensor(1.0)).isfinite()


def test_schedule_applies_the_groups_factors() -> None:
    model = network()
    groups = [
        {"params": [model.weight], "lr_factor": 0.5},
        {"params": [model.bias], "weight_decay_factor": 0.0},
    ]
    settings = Optimizer(lr=1.0, warmup_epochs=0, weight_decay=0.2, weight_decay_end=0.4)
    optimizer = build_optimizer(groups, settings)
    rates = Schedule(Recipe(epochs=2, steps_per_epoch=5, optimizer=settings)).apply(optimizer, 5)
    first, second = optimizer.param_groups
    assert rates["weight_decay"] == pytest.approx(0.3)
    assert (first["lr"], second["lr"]) == (rates["lr"] * 0.5, rates["lr"])
    assert (first["weight_decay"], second["weight_decay"]) == (rates["weight_decay"], 0.0)


def test_parameters_without_gradient_are_left_out() -> None:
    model, optimizer = made("adamw")
    model(torch.randn(5, 4)).square().mean().backward()
    model.weight.grad = None
    before = model.weight.clone()
    assert len(gradients(optimizer)) == 1
    gated_step(optimizer, torch.tensor(True))
    assert torch.equal(model.weight, before)  # no decay either


def test_groups_are_checked() -> None:
    model = network()
    with pytest.raises(PluginError, match="twice"):
        build_optimizer([{"params": [model.bias]}, {"params": [model.bias]}], Optimizer())
    with pytest.raises(PluginError, match="nothing to train"):
        build_optimizer([], Optimizer())
