"""Optimizers whose step a device-side flag can switch off, gradient clipping, and the schedules of both.

torch's fused kernels look at `found_inf` on the device and then leave parameters, moments and step counts as they are;
that is how its own GradScaler skips a step without the host knowing. We set the flag ourselves, for every precision.
LARS, which torch has not, is ours and looks at the same flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnssl.engine import recipe as recipes
from nnssl.engine.lars import LARS
from nnssl.engine.schedules import Extension, LearningRate, cosine
from nnssl.errors import PluginError


def build_optimizer(groups: Sequence[dict[str, Any]], settings: recipes.Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over a method's `parameter_groups()`.

    Args:
        groups: {"params", "lr_factor": 1.0, "weight_decay_factor": 1.0} each.
        settings: the recipe's `optimizer`.

    Raises:
        PluginError: no parameters, or one parameter in two groups.
    """
    made: list[dict[str, Any]] = []
    seen: set[int] = set()
    for group in groups:
        parameters = list(group["params"])
        if seen & {id(p) for p in parameters} or len({id(p) for p in parameters}) != len(parameters):
            raise PluginError("parameter_groups() lists a parameter twice; every parameter belongs to one group.")
        seen |= {id(p) for p in parameters}
        made.append(
            {
                "params": parameters,
                "lr_factor": float(group.get("lr_factor", 1.0)),
                "weight_decay_factor": float(group.get("weight_decay_factor", 1.0)),
            }
        )
    if not seen:
        raise PluginError("parameter_groups() lists no parameter that needs a gradient; there is nothing to train.")
    if settings.name == "adamw":
        return torch.optim.AdamW(made, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)
    if settings.name == "lars":
        return LARS(made, momentum=settings.momentum, eta=settings.trust)
    optimizer = torch.optim.SGD(made, lr=0.0, momentum=settings.momentum, fused=True)
    if settings.momentum:
        for parameter in (p for group in made for p in group["params"]):
            # Made here and not by the first step: a first step that is dropped would leave uninitialised memory.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class Schedule:
    """Sets learning rate and weight decay of every group for a step.

    Attributes:
        learning_rate: the run's learning rate, before the groups' factors.
    """

    def __init__(self, recipe: recipes.Recipe, *, extensions: Sequence[Extension] = ()) -> None:
        settings = recipe.optimizer
        self._settings = settings
        self._total = recipe.total_steps
        peak = settings.peak_lr(recipe.batch_size)
        self.learning_rate = LearningRate(
            total=recipe.total_steps,
            peak=peak,
            floor=min(settings.min_lr, peak),  # a small batch's scaled peak may lie below: a decay must not rise
            warmup=round(settings.warmup_epochs * recipe.steps_per_epoch),
            extensions=tuple(extensions),
        )

    def weight_decay(self, step: int) -> float:
        """Weight decay of optimizer step `step`, before the groups' factors."""
        start, end = self._settings.weight_decay, self._settings.weight_decay_end
        return start if end is None else cosine(step, total=self._total, start=start, end=end)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Write the values of `step` into the optimizer's groups; returns them for the journal."""
        rate, decay = self.learning_rate(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
            group["weight_decay"] = decay * group["weight_decay_factor"]
        return {"lr": rate, "weight_decay": decay}


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All gradients there are, in the optimizer's order."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def clip(grads: Sequence[Tensor], how: recipes.PerTensor | recipes.Global | None) -> Tensor:
    """Clip gradients in place and return their common L2 norm before it (scalar, on the device, no waiting).

    The norm is not finite exactly where a gradient is not (or its square overflows, which is no better), so it serves
    as the test of the step as well.
    """
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(list(grads))
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    if isinstance(how, recipes.Global):
        factor = (how.max_norm / (total + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(list(grads), factor)
    elif isinstance(how, recipes.PerTensor):
        limit = torch.stack(norms)
        factors = (how.max_norm / (limit + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(list(grads), list(factors.unbind()))
    return total


def gated_step(optimizer: torch.optim.Optimizer, applied: Tensor) -> None:
    """Take the step where `applied` (scalar bool on the device) is true; else change nothing, moments included."""
    fused: Any = optimizer
    fused.grad_scale = None
    fused.found_inf = (~applied).to(torch.float32)
    try:
        optimizer.step()
    finally:
        del fused.grad_scale, fused.found_inf
