"""A frozen linear probe: can one linear layer read the labels off the features of a network, voxel by voxel?

The vector of a voxel is that of all maps of the pyramid side by side, each interpolated trilinearly. A linear layer and
interpolation commute, so the layer is applied to the maps as they are and only its few outputs are interpolated: the
same logits at a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.sampling import sample_map
from nnssl.engine.randomness import permutation
from nnssl.errors import DataError
from nnssl.evaluate.probe.fit import Drawn, fit_layer
from nnssl.evaluate.statistics import dice_per_class
from nnssl.evaluate.tiling import pieces


@dataclass(frozen=True)
class LabelledCase:
    """A preprocessed case with its labels.

    Attributes:
        name: of the case.
        image: (C, D, H, W) normalised values.
        labels: (D, H, W) whole numbers; negative: unknown.
    """

    name: str
    image: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the layer is fitted.

    Attributes:
        voxels_per_class: drawn per case and class.
        iterations: of L-BFGS over all drawn voxels; the problem is convex, and 100 reach its bottom.
        tile: largest side of what the network sees at once, in voxels.
        seed: of the drawn voxels.
    """

    voxels_per_class: int = 1000
    iterations: int = 100
    tile: int = 96
    seed: int = 0


@dataclass(frozen=True)
class LinearProbe:
    """A fitted layer on raw (not standardised) voxel vectors; logits = weight @ vector + bias.

    Attributes:
        weight: (K, d) float32.
        bias: (K,).
        classes: the K labels.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[int, ...]

    def logits(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """(K, D, H, W) logits at every voxel of an image of `size`, from its maps (C_k, d_k, h_k, w_k)."""
        total = self.bias[:, None, None, None].expand(-1, *size).clone()
        weights = torch.split(self.weight, [len(level) for level in maps], dim=1)
        for level, weight in zip(maps, weights, strict=True):
            coarse = torch.einsum("kc,cdhw->kdhw", weight, level.float())
            total += F.interpolate(coarse[None], size=tuple(size), mode="trilinear", align_corners=False)[0]
        return total


def probe_dice(
    network: nn.Module,
    train: Sequence[LabelledCase],
    test: Sequence[LabelledCase],
    *,
    classes: Sequence[int],
    config: ProbeConfig | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, dict[int, float]]:
    """{test case: {class: Dice}} of a probe fitted on the training cases.

    Args:
        network: a module and a `Pyramid`: (N, C, D, H, W) to maps, with `strides`; it is not changed.
        train: labelled cases to fit on.
        test: labelled cases to score.
        classes: all labels, the background 0 among them; Dice is given for the others.
        config: how to fit.
        device: where the network is.

    Raises:
        DataError: a class has no voxel in the training cases.
    """
    config = config or ProbeConfig()
    probe = fit_probe(network, train, classes=classes, config=config, device=device)
    scores = {}
    for case in test:
        predicted = predict(network, probe, case.image, config=config, device=device)
        labels = [label for label in classes if label != 0]
        scores[case.name] = dice_per_class(predicted.numpy(), case.labels.numpy(), labels)
    return scores


def fit_probe(
    network: nn.Module,
    cases: Sequence[LabelledCase],
    *,
    classes: Sequence[int],
    config: ProbeConfig | None = None,
    device: torch.device | str = "cpu",
) -> LinearProbe:
    """Multinomial logistic regression on voxels balanced by class, weight decay and prior chosen on left-out cases.

    Balanced classes find small organs but overrate them in whole images. So b_k + t ln(frequency of k) replaces b_k.
    Weight decay and t are those of `WEIGHT_DECAYS` and `PRIOR_STRENGTHS` that give the highest Dice when every training
    case (or a fifth of them) is left out in turn.

    Raises:
        DataError: a class has no voxel in the training cases.
    """
    config = config or ProbeConfig()
    counts = torch.tensor([[int((case.labels == label).sum()) for label in classes] for case in cases])
    if len(classes) < 2 or not counts.sum(dim=0).all():
        missing = [label for label, count in zip(classes, counts.sum(dim=0).tolist(), strict=True) if count == 0]
        raise DataError(
            f"A probe needs voxels of at least two classes, and of each; the training cases "
            f"{', '.join(case.name for case in cases)} have none of {missing or 'a second class'}."
        )
    drawn = []
    for number, case in enumerate(cases):
        points, targets = _draw(case.labels, classes, config, number)
        drawn.append(
            Drawn(_vectors(network, case.image, points, config, torch.device(device)), targets, counts[number])
        )
    weight, bias = fit_layer(drawn, iterations=config.iterations)
    return LinearProbe(weight, bias, tuple(classes))


def predict(
    network: nn.Module,
    probe: LinearProbe,
    image: Tensor,
    *,
    config: ProbeConfig | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(D, H, W) int64 label of every voxel of a (C, D, H, W) image."""
    logits = _logits(network, probe, image, config or ProbeConfig(), torch.device(device))
    return torch.tensor(probe.classes)[logits.argmax(dim=0)]


def _draw(labels: Tensor, classes: Sequence[int], config: ProbeConfig, number: int) -> tuple[Tensor, Tensor]:
    """(P, 3) voxels and (P,) indices into `classes`, at most `voxels_per_class` of each; keyed by case and class."""
    points, targets = [], []
    for index, label in enumerate(classes):
        found = (labels == label).nonzero()
        order = permutation(config.seed, torch.tensor([number]), f"probe class {label}", len(found))[0]
        points.append(found[order[: config.voxels_per_class]])
        targets.append(torch.full((len(points[-1]),), index))
    return torch.cat(points), torch.cat(targets)


def _vectors(network: nn.Module, image: Tensor, points: Tensor, config: ProbeConfig, device: torch.device) -> Tensor:
    """(P, d) raw voxel vectors on the CPU."""
    vectors: Tensor | None = None
    for piece in pieces(network, image, largest=(config.tile,) * 3, device=device):
        inside = ((points >= torch.tensor(piece.lower)) & (points < torch.tensor(piece.upper))).all(dim=1)
        local = (points[inside] - torch.tensor(piece.tile_lower)).to(device, torch.float32)
        found = torch.cat([sample_map(level.float(), local, piece.tile_size) for level in piece.tile_maps], dim=1).cpu()
        if vectors is None:
            vectors = torch.empty(len(points), found.shape[1])
        vectors[inside] = found
    return torch.empty(len(points), 0) if vectors is None else vectors


def _logits(network: nn.Module, probe: LinearProbe, image: Tensor, config: ProbeConfig, device: torch.device) -> Tensor:
    """(K, D, H, W) logits on the CPU."""
    there = LinearProbe(probe.weight.to(device), probe.bias.to(device), probe.classes)
    logits = torch.empty(len(probe.classes), *image.shape[1:])
    for piece in pieces(network, image, largest=(config.tile,) * 3, device=device):
        seen = there.logits(piece.tile_maps, piece.tile_size).cpu()
        target = [slice(a, b) for a, b in zip(piece.lower, piece.upper, strict=True)]
        source = [slice(s.start - a, s.stop - a) for s, a in zip(target, piece.tile_lower, strict=True)]
        logits[:, *target] = seen[:, *source]
    return logits
