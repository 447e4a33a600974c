"""Looking at a network without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without gradient; every module's own mode and torch's random state are put back.

    Module by module, because a frozen teacher may be in eval mode inside a network that trains.
    """
    modes = [(module, module.training) for module in network.modules()]
    devices = [device] if device.type == "cuda" else []
    try:
        network.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
