"""State that a method declares and the engine moves: EMA teachers, centres, queues.

A forward pass may run several times per optimizer step (accumulation), on several ranks, and the step may be dropped
(a loss that is not finite). So `forward` only *observes*; the engine *commits* once per step. Imports torch only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What the engine hands to `Deferred.commit`.

    Attributes:
        index: optimizer step just taken, 0-based.
        total: optimizer steps of the whole run.
        applied: scalar bool tensor on the device; False where the step was dropped, and then nothing may change.
            Use `torch.where`, never `if`: reading it would stall the device.
        sum_over_ranks: all-reduce (sum) of a tensor, out of place; the identity without a process group.
    """

    index: int
    total: int
    applied: Tensor
    sum_over_ranks: Callable[[Tensor], Tensor]


class Deferred(nn.Module):
    """A module whose state changes only by `commit`, once per optimizer step.

    All state must be in parameters without gradient or registered buffers, so that it is saved and restored.
    """

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Move the state. Called by the engine after the optimizer, under `torch.no_grad`, on every rank."""


def commit_all(module: nn.Module, commit: Commit) -> None:
    """Commit every `Deferred` inside `module`, each once, in registration order."""
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, Deferred):
                child.commit(commit)
