"""What a probe found: Dice by head and class, paired intervals over subjects, and sentences that claim no more."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.evaluate.probe.run import PRETRAINED, QUESTION, UNTRAINED, Probe
from nnssl.evaluate.probe.train import HEADS, make_heads
from nnssl.evaluate.statistics import bootstrap_interval, compare, mean_dice

ALL_CLASSES = "mean over classes"
NOTES = (
    "The network is frozen: the figures say what can be read from its features at single voxels, not how well it "
    "segments after fine-tuning.",
    "Dice is that of whole preprocessed cases, on their grid; a class that case and prediction both lack counts "
    "nowhere.",
    "Cases of one subject count as one. Intervals are over test subjects, for one pretraining, one untrained network "
    "and one training of the heads a fold: other seeds are not in them. Those of single classes are not corrected for "
    "their number.",
)
CaseScores = Mapping[str, Mapping[str, Mapping[str, float | None]]]  # {case: {head: {class: Dice}}}


def make_report(probe: Probe, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that was found, as JSON values."""
    classes = [label.name for label in probe.target.labels.classes]
    heads = make_heads(probe.network, len(classes), seed=0)
    return {
        "question": json.loads((probe.request.out / QUESTION).read_text()),
        "warnings": list(probe.target.warnings),
        "parameters": {name: sum(p.numel() for p in head.parameters()) for name, head in heads.items()},
        "table": table({arm: found["cases"] for arm, found in results.items()}, classes, probe.target.subject_of),
        "subjects": {
            arm: {head: _plain_means(found["cases"], head, probe.target.subject_of) for head in HEADS}
            for arm, found in results.items()
        },
        "notes": list(NOTES),
        "networks": results,
    }


def table(
    networks: Mapping[str, CaseScores], classes: Sequence[str], subject_of: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row a head and class: each network's mean Dice, and the paired difference where both networks are there.

    Args:
        networks: {"pretrained": scores, "untrained": scores or absent}, Dice 0 to 1.
        classes: names.
        subject_of: case -> subject.
    """
    rows = []
    for head in HEADS:
        for name in [ALL_CLASSES, *classes]:
            values = {arm: _by_subject(cases, head, name, subject_of) for arm, cases in networks.items()}
            rows.append({"head": head, "class": name, **_row(values)})
    return rows


def _by_subject(cases: CaseScores, head: str, name: str, subject_of: Mapping[str, str]) -> dict[str, float]:
    """{subject: mean Dice of its cases} of one head and class (or `ALL_CLASSES`), NaN where it does not count."""
    found: dict[str, list[float]] = {}
    for case, scores in cases.items():
        row = {label: math.nan if dice is None else dice for label, dice in scores[head].items()}
        value = mean_dice(dict(enumerate(row.values()))) if name == ALL_CLASSES else row[name]
        found.setdefault(subject_of[case], []).append(value)
    return {subject: mean_dice(dict(enumerate(values))) for subject, values in sorted(found.items())}


def _plain_means(cases: CaseScores, head: str, subject_of: Mapping[str, str]) -> dict[str, float | None]:
    """{subject: mean Dice over classes and its cases}, for JSON."""
    means = _by_subject(cases, head, ALL_CLASSES, subject_of)
    return {subject: None if math.isnan(dice) else dice for subject, dice in means.items()}


def _row(values: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for arm, scores in values.items():
        counted = np.array([value for value in scores.values() if not math.isnan(value)])
        if len(counted):
            low, high = map(float, np.clip(bootstrap_interval(counted), 0, 1))
            row[arm] = {"mean": float(counted.mean()), "low": low, "high": high, "subjects": len(counted)}
        else:
            row[arm] = None
    if UNTRAINED in values:
        baseline, trained = values[UNTRAINED], values[PRETRAINED]
        try:
            found = compare(list(baseline.values()), [trained[subject] for subject in baseline])
        except DataError:
            row["difference"] = None  # fewer than two subjects have the class
        else:
            row["difference"] = {
                "gain": found.gain, "low": found.low, "high": found.high, "p": found.p_value,
                "verdict": found.verdict, "sentence": found.sentence(units="subjects"),
            }  # fmt: skip
    return row


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page."""
    question, both, parameters = report["question"], UNTRAINED in report["networks"], report["parameters"]
    folds = ", ".join(report["networks"][PRETRAINED]["folds"])
    lines = [
        f"# Voxel probe of {Path(question['weights']).name} on {question['dataset']}",
        "",
        f"Maps of {question['maps']}, frozen; folds {folds}; {question['settings']['steps']} steps; parameters of the "
        f"heads: linear {parameters['linear']}, non-linear {parameters['non_linear']}.",
        "",
        "| head | class | untrained | pretrained | gain (95 % interval) |" if both else "| head | class | pretrained |",
        "|---|---|---|---|---|" if both else "|---|---|---|",
    ]
    for row in report["table"]:
        cells = [row["head"].replace("_", "-"), row["class"]]
        cells += [_mean(row[UNTRAINED]), _mean(row[PRETRAINED]), _gain(row)] if both else [_mean(row[PRETRAINED])]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for row in report["table"]:
        if both and row["class"] == ALL_CLASSES and row["difference"]:
            lines.append(f"- {row['head'].replace('_', '-')} head, pretrained: {row['difference']['sentence']}.")
    lines += [f"- Warning: {warning}" for warning in report["warnings"]] + [f"- {note}" for note in report["notes"]]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write report.json and report.md; returns the latter."""
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", in_words(report))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(text)
    return folder / "report.md"


def _mean(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _gain(row: Mapping[str, Any]) -> str:
    found = row["difference"]
    return "-" if found is None else f"{found['gain']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
