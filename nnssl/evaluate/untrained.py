"""The baseline of every frozen figure: the same architecture as nnU-Net initialises it."""

from __future__ import annotations

from typing import Any

from nnssl.encoders.pyramid import PlanEncoder, PlanUNet
from nnssl.export.load import PretrainedEncoder, PretrainedPyramid
from nnssl.export.proof import fresh_network


def untrained(network: PretrainedEncoder | PretrainedPyramid, *, seed: int) -> PlanEncoder | PlanUNet:
    """A network like `network` with initial values of the seed alone, in eval mode."""
    weights = network.weights
    whole: Any = fresh_network(weights.architecture, channels=weights.channels, classes=1, seed=seed)
    return (PlanUNet(whole) if isinstance(network, PlanUNet) else PlanEncoder(whole.encoder)).eval()
