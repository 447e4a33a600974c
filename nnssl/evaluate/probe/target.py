"""What a probe works on, settled and checked before anything is trained: network, plans, classes, folds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnssl.errors import DataError, PlanError, UsageError
from nnssl.evaluate.features import preparation
from nnssl.evaluate.finetune.run import Request as Finetuning
from nnssl.evaluate.finetune.run import fitting_plans
from nnssl.evaluate.leakage import leaks, scan_hashes
from nnssl.evaluate.probe.cases import Labels, read_labels
from nnssl.evaluate.probe.settings import ProbeSettings
from nnssl.evaluate.subsets import Fold, read_folds
from nnssl.export.fitted import has_decoder
from nnssl.export.load import PretrainedEncoder, PretrainedOther, PretrainedPyramid, load_encoder, load_pyramid
from nnssl.export.other import is_other, is_primus
from nnssl.export.sources import OURS, maker, read_any
from nnssl.paths import Folders, dataset
from nnssl.planning.grid import case_plan

# of CasePlan.made_from: what changes the look of an image, in words
_PREPARATION = {
    "reader": "reader",
    "transpose_forward": "axis order",
    "spacing": "spacing D H W in mm",
    "normalization_schemes": "normalisation",
    "use_mask_for_norm": "masked normalisation",
    "intensity_properties": "CT intensity window",
}
Network = PretrainedEncoder | PretrainedPyramid | PretrainedOther


@dataclass(frozen=True, kw_only=True)
class Request:
    """A probe as asked for.

    Attributes:
        weights: the checkpoint.
        target: labelled data set by number or name.
        configuration: of the plans.
        plans_name: None: the ones that the weights fit.
        folds: of the target's split; None: all.
        settings: how the heads are trained.
        untrained: also probe the untrained network.
        encoder: the encoder's maps, also where the file has a decoder.
        which: "student" or "teacher", where the file has both.
        device: "cpu", "cuda", ...
        out: folder of the probe.
    """

    weights: Path
    target: str
    configuration: str = "3d_fullres"
    plans_name: str | None = None
    folds: Sequence[int] | None = None
    settings: ProbeSettings = field(default_factory=ProbeSettings)
    untrained: bool = True
    encoder: bool = False
    which: str = "default"
    device: str = "cpu"
    out: Path = Path("nnssl_probe")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The labelled data set of a probe.

    Attributes:
        dataset: full name.
        plans_name: of its plans.
        folder: of its preprocessed cases.
        labels: its classes.
        subject_of: case -> subject.
        folds: {number: cases}.
        warnings: what the reader must know: images prepared otherwise, test cases that were pretrained on.
    """

    dataset: str
    plans_name: str
    folder: Path
    labels: Labels
    subject_of: Mapping[str, str]
    folds: Mapping[int, Fold]
    warnings: Sequence[str]

    @property
    def test_cases(self) -> list[str]:
        """Of all folds, in order."""
        return sorted(case for fold in self.folds.values() for case in fold.test)


def settle_target(request: Request, network: Network, where: Folders) -> Target:
    """Find and check the data set, its plans, its cases and folds.

    Raises:
        NnsslError: whatever would fail later.
    """
    name = dataset(request.target, where=where)
    plans_name = request.plans_name or _fitting_plans(request, network, where)
    home = where.preprocessed / name
    plans, about = _json(home / f"{plans_name}.json"), _json(home / "dataset.json")
    warnings = _check_preparation(network, plans, request, name)
    folder = home / case_plan(plans, request.configuration).data_identifier
    cases = sorted(file.name.removesuffix("_seg.b2nd") for file in folder.glob("*_seg.b2nd"))
    if not cases:
        raise DataError(
            f"{folder} holds no labelled case (CASE_seg.b2nd). Run: nnUNetv2_preprocess -d {request.target} "
            f"-plans_name {plans_name} -c {request.configuration}"
        )
    labels = read_labels(about, home / "dataset.json")
    subjects = about.get("subjects", {})
    subject_of = {case: str(subjects.get(case, case)) for case in cases}
    folds = _chosen(read_folds(home / "splits_final.json", cases, subject_of), request.folds)
    target = Target(
        dataset=name, plans_name=plans_name, folder=folder, labels=labels, subject_of=subject_of, folds=folds,
        warnings=warnings,
    )  # fmt: skip
    return replace(target, warnings=[*warnings, *_leaks(target, network, str(plans["image_reader_writer"]), where)])


def load(request: Request) -> Network:
    """The pyramid of the checkpoint: encoder and decoder, or the encoder where no decoder was trained."""
    weights = read_any(request.weights, which=request.which)
    if request.encoder or not (is_other(weights) or has_decoder(weights)):
        return load_encoder(request.weights, which=request.which)
    return load_pyramid(request.weights, which=request.which)


def patch_size(network: Network, settings: ProbeSettings) -> tuple[int, ...]:
    """Voxels D H W that the network sees at once.

    Raises:
        PlanError: the network's strides do not divide it.
    """
    size = settings.patch_size or network.patch_size
    deepest = network.strides[-1]
    if any(side % step or side < 2 * step for side, step in zip(size, deepest, strict=True)):
        fit = tuple(max(2, round(side / step)) * step for side, step in zip(size, deepest, strict=True))
        raise PlanError(
            f"patch_size {tuple(size)} must be a multiple of {deepest}, and at least twice that; use {fit}."
        )
    return tuple(size)


def _fitting_plans(request: Request, network: Network, where: Folders) -> str:
    if is_primus(network.weights) or maker(network.weights) != OURS or request.weights.suffix != ".pth":
        raise UsageError(f"{request.weights} does not say which plans of the target it fits; give them with -p.")
    asked = Finetuning(target=request.target, configuration=request.configuration, fold="0", weights=request.weights)
    return fitting_plans(where, asked)


def _check_preparation(network: Network, plans: Mapping[str, Any], request: Request, name: str) -> list[str]:
    """Refuse other channels; warnings where the target's images were prepared otherwise than the pretraining's."""
    own, target = preparation(network.weights), case_plan(plans, request.configuration)
    if len(own.schemes) != len(target.schemes):
        raise DataError(
            f"The weights take {len(own.schemes)} channel(s) and {name} has {len(target.schemes)}. Fit them first: "
            f"nnssl_export {request.weights} -d {request.target}"
        )
    found, ours, theirs = [], own.made_from(), target.made_from()
    for key, words in _PREPARATION.items():
        if ours[key] != theirs[key]:
            found.append(
                f"The pretraining's {words} was {ours[key]}, the target's is {theirs[key]}: features of other images "
                f"than were learnt. nnssl_plan_like makes a plan that agrees."
            )
    return found


def _leaks(target: Target, network: Network, reader: str, where: Folders) -> list[str]:
    """Warnings about test cases that were pretrained on, or that this could not be checked."""
    try:
        hashes = scan_hashes(target.dataset, target.test_cases, reader, where)
    except DataError as error:
        return [f"Whether test cases were pretrained on was not checked: {error}"]
    return leaks(network.weights, hashes)


def _chosen(folds: Sequence[Fold], numbers: Sequence[int] | None) -> dict[int, Fold]:
    chosen = range(len(folds)) if numbers is None else numbers
    absent = [number for number in chosen if not 0 <= number < len(folds)]
    if absent:
        raise UsageError(f"--folds takes numbers from 0 to {len(folds) - 1}, not {absent[0]}.")
    return {number: folds[number] for number in chosen}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise PlanError(
            f"{file} is needed, but is not there. Choose plans with -p, or make them with nnssl_plan_like and "
            f"nnUNetv2_preprocess."
        )
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise PlanError(f"{file} is not readable JSON ({error}). Restore it.") from error
    return content
