"""A tiny Primus for tests: nnU-Net's class, of two narrow blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnssl.encoders.factory import PlanNetworks
from nnssl.encoders.tokens import TokenEncoder
from nnssl.testing_world import small_networks


def tiny_primus(patch_size: Sequence[int] = (16, 16, 32), *, channels: int = 1, registers: int = 0) -> nn.Module:
    """As nnU-Net's trainers build it but for width, depth and heads, every value away from its initial one."""
    from dynamic_network_architectures.architectures.primus import Primus

    made: nn.Module = Primus(
        channels,
        48,
        (8, 8, 8),
        2,
        2,
        2,
        tuple(patch_size),
        num_register_tokens=registers,
        drop_path_rate=0.2,
        scale_attn_inner=True,
        init_values=0.1,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


class TinyPrimusNetworks(PlanNetworks):
    """A plan's networks, whose Primus of any name is tiny."""

    def other(self, name: str, **options: Any) -> Any:
        """`tiny_primus` in place of nnU-Net's sizes."""
        patch = options["patch_size"]
        return TokenEncoder(tiny_primus(patch, channels=self.plan.channels), name=name, patch_size=patch)


def tiny_networks(**options: Any) -> TinyPrimusNetworks:
    """`small_networks` with a tiny Primus; equal weights every time."""
    made = small_networks(**options)
    return TinyPrimusNetworks(made.architecture, made.plan, made.data)
