"""The baseline of every frozen figure: the same architecture, freshly initialised."""

from __future__ import annotations

from typing import Any

import torch

from nnssl.encoders.other import OtherNetwork, build_other
from nnssl.encoders.pyramid import PlanEncoder, PlanUNet
from nnssl.export.load import PretrainedEncoder, PretrainedOther, PretrainedPyramid
from nnssl.export.proof import fresh_network


def untrained(
    network: PretrainedEncoder | PretrainedPyramid | PretrainedOther, *, seed: int
) -> PlanEncoder | PlanUNet | OtherNetwork:
    """A network like `network` with initial values of the seed alone, in eval mode."""
    weights = network.weights
    if isinstance(network, PretrainedOther):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_other(network.network.name, channels=weights.channels, options=network.network.options).eval()
    whole: Any = fresh_network(weights.architecture, channels=weights.channels, classes=1, seed=seed)
    return (PlanUNet(whole) if isinstance(network, PlanUNet) else PlanEncoder(whole.encoder)).eval()
