"""What the demonstration measured: Dice of the fine-tunings, and the frozen linear probe, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnssl.data.store import read_box, read_header
from nnssl.demo.cohort import Cohort
from nnssl.demo.small_plan import CONFIGURATION
from nnssl.encoders.pyramid import PlanUNet
from nnssl.errors import DataError
from nnssl.evaluate.probe.linear import LabelledCase, ProbeConfig, probe_dice
from nnssl.evaluate.runs import Scores
from nnssl.evaluate.statistics import bootstrap_interval, compare, mean_dice
from nnssl.nnunet import build_network


def probe(plans: Mapping[str, Any], cohort: Cohort, folder: Path, weights: Path | None) -> Scores:
    """Dice of one linear layer on the frozen features: all maps of the U-Net, bottleneck included.

    Args:
        plans: the small plan.
        cohort: says which cases train and which test the layer.
        folder: the preprocessed target.
        weights: a file of `nnssl_pretrain`, or None for the network as nnU-Net initialises it.
    """
    configuration = plans["configurations"][CONFIGURATION]
    torch.manual_seed(0)
    channels = len(configuration["normalization_schemes"])
    network = build_network(configuration["architecture"], channels=channels, classes=len(cohort.labels))
    if weights is not None:
        # segmentation layers are no features, and the file has two of its own
        found = torch.load(weights, weights_only=True)["network_weights"]
        ours = {name: value for name, value in found.items() if ".seg_layers." not in name}
        missing = [
            name for name in network.load_state_dict(ours, strict=False).missing_keys if ".seg_layers." not in name
        ]
        if missing:
            raise DataError(f"{weights} lacks {len(missing)} tensors of the plan's network, the first is {missing[0]}.")
    scores = probe_dice(
        PlanUNet(network),
        [load_case(folder, case) for case in cohort.training],
        [load_case(folder, case) for case in cohort.test],
        classes=sorted(cohort.labels.values()),
        config=ProbeConfig(voxels_per_class=500, iterations=60),
    )
    return {case: mean_dice(row) for case, row in scores.items()}


def load_case(folder: Path, case: str) -> LabelledCase:
    """A case as nnU-Net preprocessed it."""

    def whole(path: Path) -> Any:
        """(C, D, H, W) all voxels of a stored array."""
        shape, _ = read_header(path)
        return read_box(path, (0, 0, 0), shape[1:])

    image, labels = whole(folder / f"{case}.b2nd"), whole(folder / f"{case}_seg.b2nd")
    return LabelledCase(
        case, torch.from_numpy(np.array(image, np.float32)), torch.from_numpy(np.array(labels[0], np.int64))
    )


def summary(scores: Scores) -> dict[str, Any]:
    """Mean over cases with its bootstrap interval, and the cases."""
    values = np.array([value for value in scores.values() if not math.isnan(value)])
    low, high = map(float, np.clip(bootstrap_interval(values), 0, 1))
    return {"mean": float(values.mean()), "low": low, "high": high, "cases": scores}


def difference(baseline: Scores, pretrained: Scores) -> dict[str, Any]:
    """The paired comparison, with its sentence; it claims no more than the interval over cases allows."""
    cases = sorted(baseline)
    found = compare([baseline[case] for case in cases], [pretrained[case] for case in cases])
    return {
        "gain": found.gain, "low": found.low, "high": found.high, "p": found.p_value,
        "verdict": found.verdict, "sentence": found.sentence(),
    }  # fmt: skip
