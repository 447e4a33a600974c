"""LARS: momentum SGD whose step in every weight tensor is a fixed share of that tensor's length.

You, Gitman, Ginsburg 2017, "Large batch training of convolutional networks", arXiv:1708.03888, eq. 6 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """v <- m v + r (g + b w), w <- w - lr v, with r = eta |w| / |g + b w| for every tensor.

    Two points where the literature varies, and what is done here: |g + b w| stands under r as in the code that SSL
    papers ran, where the 2017 paper has |g| + b |w|; and tensors of one dimension (biases, norm gains), or whose |w|
    or |g + b w| is 0, have r = 1.

    As torch's fused optimizers do, it looks at `found_inf` on the device: where that is not 0, parameters and momenta
    stay bit for bit as they are, whatever the gradients hold.

    Attributes:
        found_inf: scalar tensor, or absent: every step is taken. Set and removed by `engine.optim.gated_step`.
    """

    found_inf: Tensor | None

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0, eta: float
    ) -> None:
        """An optimizer over `params`.

        Args:
            params: tensors or groups of them.
            lr: learning rate.
            momentum: m, in [0, 1).
            weight_decay: b.
            eta: trust coefficient; published 0.001.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})
        for group in self.param_groups:
            for parameter in group["params"]:
                # Made here: a state is then whole before the first step, which may be a dropped one.
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take the step where `found_inf` is 0 or absent. `closure` is torch's argument and must be None."""
        found: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group, found)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], found: Tensor | None) -> None:
        """Move one tensor and its momentum, in place."""
        buffer: Tensor = self.state[parameter]["momentum_buffer"]
        direction = torch.add(gradient, parameter, alpha=group["weight_decay"])
        if parameter.ndim > 1:
            length, pace = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(direction)
            ratio = group["eta"] * length / pace
            direction = direction * torch.where((length > 0) & (pace > 0), ratio, 1.0)
        momentum = group["momentum"] * buffer + direction
        moved = parameter - group["lr"] * momentum
        if found is not None:
            # `where` and not a factor: a dropped step's gradients may be nan, and 0 x nan is nan
            applied = found.to(parameter.device) == 0
            momentum, moved = torch.where(applied, momentum, buffer), torch.where(applied, moved, parameter)
        buffer.copy_(momentum)
        parameter.copy_(moved)
