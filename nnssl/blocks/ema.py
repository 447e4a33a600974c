"""Exponential moving average of a network: the teacher of self-distillation (DINO, Caron et al. 2021, section 3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from nnssl.blocks.deferred import Commit, Deferred

Momentum = Callable[[int, int], float]


class CosineMomentum:
    """m_t = 1 - (1 - m_0) (1 + cos(pi t / T)) / 2: from m_0 towards 1 over the run, never quite 1.

    A class and not a closure, so that a method that holds it can be copied and pickled.

    Args:
        start: m_0, which remembers 1 / (1 - m_0) steps: 250 at the usual 0.996.
        memory: the most that may be, as a share of the run: m_0 is lowered to 1 - 1 / (memory * T) where it would
            remember more, since a teacher that outlasts a short run stays what it was, untrained. 0: no bound.
    """

    def __init__(self, start: float, *, memory: float = 0.0) -> None:
        self.start = start
        self.memory = memory

    def __call__(self, index: int, total: int) -> float:
        """m_t at optimizer step `index` (t) of `total` (T)."""
        start = self.start if self.memory == 0 else min(self.start, max(0.0, 1.0 - 1.0 / (self.memory * total)))
        return 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * index / total))


class EMATeacher(Deferred):
    """A copy of `student` that follows it: theta_t <- m theta_t + (1 - m) theta_s, once per applied step.

    Called like the student, without gradient. Parameters are matched by name over `named_parameters()`, which lists a
    tensor once: nnU-Net registers its tensors under several names, and a loop over a state dict would move them twice
    (a step of 1 - m^2) or four times.

    Dropout, which a plan may have, is off in the copy: its answers are targets, and a target must not be noise.

    Buffers are not averaged: they start as the student's and then belong to the teacher. Batch norm in our heads keeps
    none, and instance norm has none.

    The student is held by reference and not registered, so its tensors are saved, moved and counted once. A deep copy
    of a method that holds both points at the copied student.

    Attributes:
        network: the averaged copy; hand this (or a part of it) to the export.
    """

    def __init__(self, student: nn.Module, *, momentum: Momentum) -> None:
        super().__init__()
        self.network = copy.deepcopy(student)
        self.network.requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        self.momentum = momentum
        self._student = (student,)  # a tuple, which nn.Module does not register

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged copy says."""
        return self.network(*args, **kwargs)

    @torch.no_grad()
    def agree(self, *, on_teacher: bool) -> None:
        """Make teacher and student bit-equal again: the student takes the teacher's values, or the other way round."""
        followed = dict(self._student[0].named_parameters())
        for name, ours in self.network.named_parameters():
            if on_teacher:
                followed[name].copy_(ours)
            else:
                ours.copy_(followed[name])

    def commit(self, commit: Commit) -> None:
        """Move by m(index, total) towards the student, or stay bit-equal where the step was dropped."""
        momentum = self.momentum(commit.index, commit.total)
        followed = dict(self._student[0].named_parameters())
        named = dict(self.network.named_parameters())
        old = [parameter.data for parameter in named.values()]
        new = torch._foreach_mul(old, momentum)
        torch._foreach_add_(new, [followed[name].data for name in named], alpha=1.0 - momentum)
        for before, after in zip(old, new, strict=True):
            # `where` and not a factor of zero: 0 x nan is nan, and a dropped step may have left some behind
            torch.where(commit.applied, after, before, out=before)
