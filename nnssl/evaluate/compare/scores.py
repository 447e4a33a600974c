"""What the predictions of a comparison are worth: Dice and normalised surface distance of every case and class."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.evaluate.compare.plan import Target, Training
from nnssl.evaluate.statistics import dice_per_class
from nnssl.evaluate.surface import surface_dice_per_class
from nnssl.evaluate.volumes import read_labels
from nnssl.planning.reading import source_stamp

SCORES, TABLE = "scores.json", "scores.csv"
METRICS = ("dice", "nsd")
Scores = dict[str, dict[str, dict[str, float]]]  # case -> metric -> class -> 0 to 1, NaN where it does not count


def score_fold(fold: Path, training: Training, target: Target, truth: Path, *, tolerance_mm: float) -> Scores:
    """Scores of a training's saved predictions; kept beside them until these change.

    Args:
        fold: where the training left its `validation` folder.
        training: says which fold was predicted.
        target: the data set.
        truth: folder of the label maps.
        tolerance_mm: of the surface distance.

    Raises:
        DataError: a prediction is missing, unreadable, or of another size than the truth.
    """
    ending = str(target.about["file_ending"])
    files = {case: fold / "validation" / f"{case}{ending}" for case in target.folds[training.fold].test}
    absent = [case for case, file in files.items() if not file.is_file()]
    if absent:
        raise DataError(
            f"The prediction of test case {absent[0]} is missing in {fold / 'validation'} ({len(absent)} in all). "
            f"Remove {training.name}.done from the logs folder and run the same command again."
        )
    classes = {name: list(values) for name, values in target.classes.items()}
    stamp = {"tolerance_mm": tolerance_mm, "classes": classes, "predictions": source_stamp(sorted(files.values()))}
    memory = fold / SCORES
    if memory.is_file():
        known = json.loads(memory.read_text())
        if known["of"] == stamp:
            scores: Scores = _with_nan(known["scores"])
            return scores
    scores = {
        case: score_case(file, truth / file.name, target, tolerance_mm=tolerance_mm) for case, file in files.items()
    }
    with whole_file(memory) as temporary:
        temporary.write_text(json.dumps({"of": stamp, "scores": _without_nan(scores)}))
    return scores


def score_case(prediction: Path, truth: Path, target: Target, *, tolerance_mm: float) -> dict[str, dict[str, float]]:
    """Dice and normalised surface distance of every class; voxels that nobody labelled count as background in both.

    Raises:
        DataError: a file is missing, unreadable, or the two differ in size.
    """
    reader = str(target.plans["image_reader_writer"])
    predicted, spacing_mm = read_labels(prediction, reader)
    true, _ = read_labels(truth, reader)
    if predicted.shape != true.shape:
        raise DataError(f"{prediction} has {predicted.shape} voxels, the labels {truth} have {true.shape}.")
    if target.ignored is not None:
        unknown = true == target.ignored
        predicted, true = np.where(unknown, 0, predicted), np.where(unknown, 0, true)
    dice = {
        name: dice_per_class(np.isin(predicted, values).astype(int), np.isin(true, values).astype(int), [1])[1]
        for name, values in target.classes.items()
    }
    near = surface_dice_per_class(predicted, true, target.classes, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    return {"dice": dice, "nsd": near}


def stack(
    found: Mapping[tuple[int, int], Scores], cases: list[str], classes: list[str], metric: str
) -> npt.NDArray[Any]:
    """(draws, cases, classes) of one metric; NaN where a draw did not test a case or a class does not count.

    Args:
        found: {(draw, fold): scores}.
        cases: names along the second axis.
        classes: names along the third.
        metric: one of `METRICS`.
    """
    draws = sorted({draw for draw, _ in found})
    table = np.full((len(draws), len(cases), len(classes)), np.nan)
    for (draw, _), scores in found.items():
        for case, values in scores.items():
            table[draws.index(draw), cases.index(case)] = [values[metric][name] for name in classes]
    return table


def write_table(path: Path, rows: Mapping[Training, Scores]) -> None:
    """`scores.csv`: one line a target, arm, number of labels, fold, draw, case and class."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("target", "arm", "labels", "fold", "draw", "case", "class", *METRICS))
        for one, scores in rows.items():
            for case, values in scores.items():
                for name in values["dice"]:
                    numbers = ["" if math.isnan(values[key][name]) else f"{values[key][name]:.6f}" for key in METRICS]
                    writer.writerow((one.dataset, one.arm, one.labels, one.fold, one.replicate, case, name, *numbers))


def _without_nan(scores: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(scores, dict):
        return {key: _without_nan(value) for key, value in scores.items()}
    return None if math.isnan(scores) else scores


def _with_nan(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {key: _with_nan(value) for key, value in scores.items()}
    return math.nan if scores is None else scores
