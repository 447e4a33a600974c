"""Number formats of a run: autocast, and a loss scale that lives on the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.engine.recipe import Precision, Recipe


class LossScale(nn.Module):
    """The dynamic loss scale of fp16 training (Micikevicius et al. 2018, section 3.2), without the host looking.

    Doubles after `interval` good steps in a row, halves after a bad one. For other precisions it is 1 and stays so.

    Attributes:
        value: scalar scale.
        good: good steps since it last changed.
    """

    value: Tensor
    good: Tensor

    def __init__(self, *, enabled: bool, start: float = 2.0**16, interval: int = 2000) -> None:
        super().__init__()
        self.enabled = enabled
        self.interval = interval
        self.register_buffer("value", torch.tensor(start if enabled else 1.0))
        self.register_buffer("good", torch.zeros((), dtype=torch.int64))

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to run backward on."""
        return loss * self.value if self.enabled else loss

    def unscale(self, grads: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.enabled and grads:
            torch._foreach_mul_(list(grads), 1.0 / self.value)

    def update(self, applied: Tensor) -> None:
        """Learn from a step: `applied` is false where its gradients were not finite."""
        if not self.enabled:
            return
        good = torch.where(applied, self.good + 1, 0)
        grown = good >= self.interval
        self.value.mul_(torch.where(applied, torch.where(grown, 2.0, 1.0), 0.5))
        self.good.copy_(torch.where(grown, 0, good))


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with a precision in place of `auto`: bf16 where the GPU has it, else fp16 on GPUs, fp32 elsewhere.

    A run's recipe.json holds that one, so that a run continued on another device keeps its arithmetic.
    """
    if recipe.precision != "auto":
        return recipe
    if device.type != "cuda":
        return replace(recipe, precision="fp32")
    return replace(recipe, precision="bf16" if torch.cuda.is_bf16_supported() else "fp16")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context a forward pass runs in; `precision` must not be `auto`."""
    if precision in ("bf16", "fp16"):
        return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
    return nullcontext()
