"""All pictures of a comparison as PNG files, and which cases the overlays show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.evaluate.compare.numbers import mean
from nnssl.evaluate.compare.plan import Target, Training
from nnssl.evaluate.compare.report import Measured
from nnssl.evaluate.compare.run import Comparison
from nnssl.evaluate.volumes import read_labels, read_volume
from nnssl.planning.cases import read_raw_dataset
from nnssl.report.canvas import label_words
from nnssl.report.class_bars import draw_class_bars
from nnssl.report.label_curves import draw_epochs, draw_gains, draw_labels
from nnssl.report.overlays import Panel, Row, draw_overlays

_MARGIN_MM = 12.0  # of image around the organs
_DRAWINGS = {
    "gains": (draw_gains, "Gain over the better schedule from scratch; filled where 0 is outside the interval"),
    "labels": (draw_labels, "Scores over the number of labels, with their intervals"),
    "epochs": (draw_epochs, "Dice while training, mean and range of the draws: is it faster?"),
    "classes": (draw_class_bars, "Scores of every class, with their intervals"),
}


def draw_pictures(
    comparison: Comparison, report: Mapping[str, Any], measured: Mapping[Training, Measured]
) -> dict[str, dict[str, Path]]:
    """Write them beside the report; {target: {caption: file}}."""
    made: dict[str, dict[str, Path]] = {}
    for target in comparison.targets:
        found = report["targets"][target.dataset]
        made[target.dataset] = draw_curves(comparison.request.out, target.dataset, found["labels"])
        for labels, counted in found["labels"].items():
            rows = overlay_rows(comparison, target, labels, counted, measured)
            path = comparison.request.out / f"{target.dataset}_overlays_labels{labels}.png"
            if not rows:
                continue
            draw_overlays(path, f"{target.dataset}, {label_words(labels)}", rows, target.classes)
            caption = f"Where each checkpoint lost and gained most against scratch, {label_words(labels)}, first draw"
            made[target.dataset][caption] = path
    return made


def draw_curves(folder: Path, dataset: str, counts: Mapping[str, Any]) -> dict[str, Path]:
    """All but the overlays; {caption: file}."""
    made = {}
    for name, (draw, caption) in _DRAWINGS.items():
        made[caption] = folder / f"{dataset}_{name}.png"
        draw(made[caption], dataset, counts)
    return made


def overlay_rows(
    comparison: Comparison,
    target: Target,
    labels: str,
    counted: Mapping[str, Any],
    measured: Mapping[Training, Measured],
) -> list[Row]:
    """For each checkpoint the case that lost most and the one that gained most against scratch, in the first draw."""
    first = {
        (one.arm, one.fold): one
        for one in comparison.trainings[target.dataset]
        if one.labels == labels and one.replicate == 0
    }
    fold_of = {case: number for number, fold in target.folds.items() for case in fold.test}
    dice = {
        arm: {case: _mean_of(measured[first[arm, fold_of[case]]].scores[case]["dice"]) for case in target.test_cases}
        for arm in comparison.arms
    }
    chosen: dict[str, list[str]] = {}
    for arm, about in counted["differences"].items():
        against = about["against"]
        gains = {case: dice[arm][case] - dice[against][case] for case in target.test_cases}
        known = {case: gain for case, gain in gains.items() if np.isfinite(gain)}
        for word, pick in (("worst", min), ("best", max)) if known else ():
            case = pick(known, key=known.__getitem__)
            chosen.setdefault(case, []).append(f"{word} for {arm}, {100 * known[case]:+.1f} points")
    rows = []
    for case, reasons in chosen.items():
        shown = {name: first[name, fold_of[case]] for name in comparison.arms}
        title = f"{case}: {'; '.join(reasons)}"
        rows.append(_row(comparison, target, case, title, shown, {name: dice[name][case] for name in shown}))
    return rows


def _mean_of(values: Mapping[str, float]) -> float:
    return float(mean(np.array(list(values.values()))))


def _row(
    comparison: Comparison,
    target: Target,
    case: str,
    title: str,
    shown: Mapping[str, Training],
    dice: Mapping[str, float],
) -> Row:
    reader, ending = str(target.plans["image_reader_writer"]), str(target.about["file_ending"])
    truth_folder = comparison.where.preprocessed / target.dataset / "gt_segmentations"
    truth, spacing = read_labels(truth_folder / f"{case}{ending}", reader)
    raw = {one.case_id: one.files for one in read_raw_dataset(target.dataset, comparison.where).cases}
    image, _ = read_volume(raw[case][0], reader)
    predictions = {
        arm: read_labels(comparison.fold_folder(target, one) / "validation" / f"{case}{ending}", reader)[0]
        for arm, one in shown.items()
    }
    axis, index, box, (height, width) = choose_slice(truth, list(predictions.values()), spacing)

    def cut(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(h, w) the shown part of the chosen slice of a (D, H, W) volume."""
        slice_of: npt.NDArray[Any] = volume.take(index, axis=axis)
        return slice_of[box]

    return Row(
        title=title,
        image=cut(image).astype(np.float32),
        reference=cut(truth),
        aspect=height / width,
        panels=[
            Panel(title=f"{arm}: Dice {100 * dice[arm]:.1f} %", prediction=cut(labels))
            for arm, labels in predictions.items()
        ],
    )


def choose_slice(
    truth: npt.NDArray[Any], predictions: list[npt.NDArray[Any]], spacing_mm: tuple[float, float, float]
) -> tuple[int, int, tuple[slice, slice], tuple[float, float]]:
    """The slice across the coarsest axis, with at least half as much organ as any, on which most is wrong; cut to it.

    Args:
        truth: labels (D, H, W).
        predictions: labels of the same shape.
        spacing_mm: voxel size D H W.

    Returns:
        axis, index along it, box within the slice, voxel height and width in mm.
    """
    axis = int(np.argmax(spacing_mm))
    others = tuple(other for other in range(3) if other != axis)
    wrong = sum((prediction != truth).astype(np.int64) for prediction in predictions)
    area = (truth > 0).sum(axis=others)
    per_slice = np.asarray(wrong).sum(axis=others) + 1e-3 * area  # where nothing is wrong, the largest area
    per_slice[area < area.max() / 2] = -1
    organs = truth > 0 if (truth > 0).any() else np.any([prediction > 0 for prediction in predictions], axis=0)
    box = []
    for other in others:
        there = np.flatnonzero(organs.any(axis=tuple(one for one in range(3) if one != other)))
        margin = round(_MARGIN_MM / spacing_mm[other])
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, truth.shape[other] - 1)
        box.append(slice(max(0, first - margin), min(truth.shape[other], last + margin + 1)))
    return axis, int(per_slice.argmax()), (box[0], box[1]), (spacing_mm[others[0]], spacing_mm[others[1]])
