"""LARS against a naive loop, its gate, and its state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from nnssl.engine.lars import LARS
from nnssl.engine.optim import Schedule, build_optimizer, gated_step
from nnssl.engine.recipe import Optimizer, Recipe
from nnssl.errors import RecipeError

SETTINGS = Optimizer(name="lars", lr=0.5, warmup_epochs=0, weight_decay=0.01, momentum=0.8, trust=0.02)


def made(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = build_optimizer([{"params": list(model.parameters())}], SETTINGS)
    assert isinstance(optimizer, LARS)
    Schedule(Recipe(optimizer=SETTINGS)).apply(optimizer, 0)
    return optimizer


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def backward(model: nn.Linear, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model(torch.randn(5, 4, generator=generator, dtype=torch.float64)).square().mean().backward()


def test_it_equals_a_naive_loop_over_numbers() -> None:
    model = network()
    optimizer = made(model)
    names = [name for name, _ in model.named_parameters()]
    weights = {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
    momenta = {name: [0.0] * len(weights[name]) for name in names}
    for number in range(4):
        backward(model, number)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            w, v = weights[name], momenta[name]
            d = [g + 0.01 * value for g, value in zip(parameter.grad.flatten().tolist(), w, strict=True)]
            ratio = 0.02 * math.hypot(*w) / math.hypot(*d) if parameter.ndim > 1 else 1.0
            momenta[name] = v = [0.8 * before + ratio * now for before, now in zip(v, d, strict=True)]
            weights[name] = [value - 0.5 * step for value, step in zip(w, v, strict=True)]
        gated_step(optimizer, torch.tensor(True))
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert parameter.detach().flatten().tolist() == pytest.approx(weights[name], rel=1e-12)


def test_length_of_a_first_step_is_a_share_of_the_tensor_whatever_the_gradient_is() -> None:
    for factor in (1e-6, 1.0, 1e6):
        model = nn.Linear(4, 3, bias=False)
        before = model.weight.detach().clone()
        optimizer = LARS(model.parameters(), lr=2.0, eta=0.01)
        model.weight.grad = factor * torch.ones(3, 4)
        optimizer.step()
        assert (model.weight - before).norm().item() == pytest.approx(0.02 * before.norm().item(), rel=1e-4)


def test_zero_weights_and_zero_gradients_take_plain_steps() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([weight], lr=0.1, momentum=0.0, eta=0.01)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.1))
    weight.grad = torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.1))


@pytest.mark.parametrize("dropped", [0, 2])
def test_dropped_step_leaves_no_trace(dropped: int) -> None:
    model, other = network(), network()
    optimizer, reference = made(model), made(other)
    for number in range(4):
        backward(model, number)
        if number == dropped:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(torch.nan)
        else:
            backward(other, number)
            gated_step(reference, torch.tensor(True))
        gated_step(optimizer, torch.tensor(number != dropped))
        optimizer.zero_grad()
        reference.zero_grad()
    for parameter, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, wanted)


def test_restored_from_its_state_it_goes_on_bit_for_bit() -> None:
    model = network()
    optimizer = made(model)
    for number in range(3):
        backward(model, number)
        gated_step(optimizer, torch.tensor(True))
        optimizer.zero_grad()
    twin = copy.deepcopy(model)
    restored = made(twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, stepper in ((model, optimizer), (twin, restored)):
        backward(each, 9)
        gated_step(stepper, torch.tensor(True))
    for parameter, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, wanted)


def test_parameters_without_gradient_stay() -> None:
    model = network()
    optimizer = made(model)
    backward(model, 0)
    model.weight.grad = None
    before = model.weight.clone()
    gated_step(optimizer, torch.tensor(True))
    assert torch.equal(model.weight, before)


def test_trust_must_be_positive() -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.trust must be greater than 0"):
        Optimizer(name="lars", trust=0.0)
