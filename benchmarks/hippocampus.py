"""Real scans for short runs: MSD Task04_Hippocampus with a small plan, some cases with labels for a probe."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from torch import nn

from nnssl.cli.plan_and_preprocess import main as plan_and_preprocess
from nnssl.engine.plan import plan_info
from nnssl.evaluate.probe.linear import LabelledCase, ProbeConfig, probe_dice
from nnssl.evaluate.statistics import mean_dice
from nnssl.method import PlanInfo
from nnssl.testing_world import small_architecture

FEATURES = (8, 16, 32, 64)


@dataclass(frozen=True)
class World:
    """Data that all rows share.

    Attributes:
        folder: the preprocessed unlabelled cases.
        plan: a small one.
        few: labelled cases that the probe is fitted on.
        rest: and those that it is tested on.
    """

    folder: Path
    plan: PlanInfo
    few: list[LabelledCase]
    rest: list[LabelledCase]


def prepare(
    source: Path, workspace: Path, *, features: Sequence[int] = FEATURES, trainers: Sequence[str] = ()
) -> World:
    """Plan and preprocess the unlabelled cases; read the labelled ones.

    Args:
        source: an nnU-Net folder with imagesTr, labelsTr and a splits.json that names `pretrain_unlabelled`,
            `fine_tune_labelled` and `few_shot_5` cases; images of about 1 mm, of one channel.
        workspace: an empty folder.
        trainers: whose raw values, sidecars and tables to make besides.
    """
    splits = json.loads((source / "splits.json").read_text())
    raw = workspace / "nnUNet_raw" / "Dataset745_Collapse"
    (raw / "imagesTr").mkdir(parents=True)
    for case in splits["pretrain_unlabelled"]:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", raw / "imagesTr")
    names = {"channel_names": {"0": "T1"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(names | {"numTraining": len(splits["pretrain_unlabelled"])}))
    if plan_and_preprocess(
        ["-d", "745", "--workspace", str(workspace), "-np", "1", *(["--for", *trainers] if trainers else [])]
    ):
        sys.exit("planning failed; see above")
    preprocessed = workspace / "nnUNet_preprocessed" / raw.name
    plans = json.loads((preprocessed / "nnsslPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["architecture"] = small_architecture(features=FEATURES)
    few = set(splits["few_shot_5"])
    return World(
        folder=preprocessed / "nnsslPlans_3d_fullres",
        plan=plan_info(configuration, channels=1),
        few=[labelled(source, case) for case in sorted(few)],
        rest=[labelled(source, case) for case in splits["fine_tune_labelled"] if case not in few],
    )


def labelled(source: Path, case: str) -> LabelledCase:
    """A labelled case, normalised as nnU-Net does for MR."""
    image = read(source / "imagesTr" / f"{case}_0000.nii.gz").astype(np.float32)
    labels = read(source / "labelsTr" / f"{case}.nii.gz").astype(np.int64)
    normalised = (image - image.mean()) / image.std()
    return LabelledCase(case, torch.from_numpy(normalised)[None], torch.from_numpy(labels))


def read(path: Path) -> np.ndarray[Any, Any]:
    """The voxels of a file, D H W."""
    voxels: np.ndarray[Any, Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return voxels


def probe(network: nn.Module, world: World) -> float:
    """Mean Dice of a linear layer on the frozen maps of `network`, fitted on five cases."""
    config = ProbeConfig(voxels_per_class=500)
    scores = probe_dice(network, world.few, world.rest, classes=(0, 1, 2), config=config)
    return float(np.mean([mean_dice(score) for score in scores.values()]))
