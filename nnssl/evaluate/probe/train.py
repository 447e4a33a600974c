"""Trains the two heads of a voxel probe on a frozen network, and reads whole cases with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnssl.engine.frozen import undisturbed
from nnssl.engine.randomness import numpy_generator
from nnssl.evaluate.probe.cases import Case, Labels, draw_patches
from nnssl.evaluate.probe.heads import LinearHead, NonLinearHead, probe_loss
from nnssl.evaluate.probe.settings import ProbeSettings
from nnssl.evaluate.statistics import dice_per_class, mean_dice
from nnssl.evaluate.tiling import pieces

LINEAR, NON_LINEAR = "linear", "non_linear"
HEADS = (LINEAR, NON_LINEAR)
CaseDice = dict[int, float]  # {index of the class: Dice}
Predictions = dict[str, Tensor]  # {head: (K, D, H, W) bool}


@dataclass
class FittedHead:
    """A head as it was at its best step.

    Attributes:
        state: its tensors, on the CPU.
        step: after how many steps.
        dice: mean validation Dice there, 0 to 1.
        curve: (step, mean validation Dice) of every look.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    dice: float = -1.0
    curve: list[tuple[int, float]] = field(default_factory=list)

    def look(self, head: nn.Module, step: int, dice: float) -> None:
        """Note a validation; keep the head where it is better than ever before."""
        self.curve.append((step, dice))
        if dice > self.dice or not self.state:
            self.step, self.dice = step, dice
            self.state = {name: value.detach().cpu().clone() for name, value in head.state_dict().items()}


def make_heads(network: nn.Module, classes: int, *, seed: int) -> nn.ModuleDict:
    """Both heads for a pyramid, with initial values of the seed alone."""
    pyramid: Any = network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleDict(
            {
                LINEAR: LinearHead(pyramid.channels, pyramid.strides, classes=classes),
                NON_LINEAR: NonLinearHead(pyramid.channels, pyramid.strides, classes=classes),
            }
        )


def fit_heads(
    network: nn.Module,
    train: Sequence[Case],
    validation: Sequence[Case],
    labels: Labels,
    *,
    settings: ProbeSettings,
    patch_size: Sequence[int],
    fold: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] = lambda step: None,
) -> tuple[nn.ModuleDict, dict[str, FittedHead]]:
    """Both heads in one pass over a frozen network, each as it was where its own validation Dice was highest.

    Args:
        network: a module and a `Pyramid`, on `device`; it is not changed.
        train: cases to draw patches from.
        validation: cases of other subjects, which choose the step.
        labels: the classes.
        settings: how long and how.
        patch_size: voxels D H W, multiples of the deepest stride.
        fold: goes into the draws, so that folds differ, and networks do not.
        device: where the network is.
        progress: called with the number of steps done.
    """
    device = torch.device(device)
    heads = make_heads(network, len(labels.classes), seed=settings.seed).to(device)
    optimizer = torch.optim.Adam(heads.parameters(), lr=settings.lr)
    fitted = {name: FittedHead() for name in HEADS}
    for step in range(1, settings.steps + 1):
        rng = numpy_generator(settings.seed, step, "probe patches", fold)
        case = train[int(rng.integers(len(train)))]
        patches = draw_patches(case, labels, size=patch_size, count=settings.patches, rng=rng)
        with undisturbed(network, device):
            maps = network(patches.images.to(device))
        targets, known = patches.targets.to(device), patches.known.to(device)
        heads.train()
        optimizer.zero_grad(set_to_none=True)
        for head in heads.values():  # one after the other: the graph of one head at a time is in memory
            probe_loss(head(maps), targets, known).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % settings.validate_every == 0 or step == settings.steps:
            _validate(network, heads, validation, labels, fitted, step, patch_size, device)
        progress(step)
    for name, head in heads.items():
        head.load_state_dict(fitted[name].state)
    return heads, fitted


def predict(
    network: nn.Module,
    heads: nn.ModuleDict,
    image: Tensor,
    *,
    patch_size: Sequence[int],
    device: torch.device | str = "cpu",
) -> Predictions:
    """Where each head sees each class, at a probability of one half: windows, each contributing its inner part.

    Args:
        network: a module and a `Pyramid`, on `device`.
        heads: fitted.
        image: (C, D, H, W), any size.
        patch_size: voxels D H W of a window.
        device: where network and heads are.
    """
    heads.eval()
    found: Predictions = {}
    for piece in pieces(network, image, largest=patch_size, device=device):
        here = [slice(a, b) for a, b in zip(piece.lower, piece.upper, strict=True)]
        inside = [slice(0, s.stop - s.start) for s in here]
        for name, head in heads.items():
            with torch.no_grad():
                seen = (head([level[None] for level in piece.maps])[0] > 0).cpu()
            if name not in found:
                found[name] = torch.zeros(len(seen), *image.shape[1:], dtype=torch.bool)
            found[name][:, *here] = seen[:, *inside]
    return found


def score(network: nn.Module, heads: nn.ModuleDict, case: Case, labels: Labels, **how: Any) -> dict[str, CaseDice]:
    """{head: {class: Dice}} of one case over its known voxels; NaN where neither has the class.

    Args:
        network: as `predict`.
        heads: as `predict`.
        case: with labels.
        labels: the classes.
        **how: patch_size and device, as `predict` takes them.
    """
    image, numbers = case.whole()
    targets, known = labels.targets(numbers)
    truth = np.where(known.numpy() > 0, targets.numpy().astype(np.int8), np.int8(-1))
    return {
        name: {
            index: dice_per_class(masks[index].numpy().astype(np.int8), truth[index], [1])[1]
            for index in range(len(labels.classes))
        }
        for name, masks in predict(network, heads, image, **how).items()
    }


def _validate(
    network: nn.Module,
    heads: nn.ModuleDict,
    cases: Sequence[Case],
    labels: Labels,
    fitted: dict[str, FittedHead],
    step: int,
    patch_size: Sequence[int],
    device: torch.device,
) -> None:
    found = [score(network, heads, case, labels, patch_size=patch_size, device=device) for case in cases]
    for name in HEADS:
        means = [mean_dice(scores[name]) for scores in found]
        counted = [value for value in means if not math.isnan(value)]
        fitted[name].look(heads[name], step, math.fsum(counted) / len(counted) if counted else 0.0)
