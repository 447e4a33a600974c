"""What a classification found: a table, JSON, every prediction, and sentences that claim no more than intervals do."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.evaluate.classify.items import TEST, Item
from nnssl.evaluate.classify.metrics import METRICS, Predicted, with_intervals
from nnssl.evaluate.classify.run import FIXED_TEST, Classification, Found

_NOTES = (
    "Intervals come from drawing subjects with replacement, the same for both networks, with the predictions as they "
    "are: other folds, seeds and pretrainings are not in them.",
    "The cross-validation pools the predictions of all folds' models; each was chosen and fitted without the fold. "
    "Models of different folds are not calibrated to each other, which can lower the AUC, also below a half.",
    "linear: logistic regression on the standardised means of the encoder's maps; knn: nearest neighbours by cosine. "
    "The strength of the penalty and the number of neighbours are chosen by folds inside the training part.",
)


def make_report(classification: Classification, found: Found) -> dict[str, Any]:
    """Everything that was found, as JSON values."""
    request = classification.request
    return {
        "weights": str(request.weights),
        "which": request.which,
        "classes": list(request.classes),
        "auc_of": request.classes[1] if len(request.classes) == 2 else "mean of one against the rest",
        "folds": request.folds,
        "largest_class": _largest_share(request.items),
        "results": {
            where: {
                kind: with_intervals(networks, seed=request.seed) | {"choices": found.choices[where][kind]}
                for kind, networks in kinds.items()
            }
            for where, kinds in found.predictions.items()
        },
        "warnings": classification.warnings,
        "notes": list(_NOTES),
    }


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page."""
    lines = [
        f"# Classification with {Path(report['weights']).name}",
        "",
        f"Classes: {', '.join(report['classes'])} (AUC: {report['auc_of']}); the largest one has "
        f"{report['largest_class']:.0%} of the images. In brackets: 95 % intervals over subjects.",
        "",
        "| judged by | classifier | network | AUC | accuracy | balanced accuracy |",
        "|---|---|---|---|---|---|",
    ]
    said = []
    for where, kinds in report["results"].items():
        for kind, result in kinds.items():
            for network, values in result["networks"].items():
                cells = [_cell(values[name]) for name in METRICS]
                lines.append(f"| {' | '.join([where, kind, network, *cells])} |")
            if "difference" in result:
                said.append(f"- {where}, {kind}, pretrained: {result['difference']['sentence']}.")
    said += [f"- Warning: {warning}" for warning in report["warnings"]] + [f"- {note}" for note in report["notes"]]
    return "\n".join([*lines, "", *said]) + "\n"


def write_report(folder: Path, report: Mapping[str, Any], items: Sequence[Item], found: Found) -> Path:
    """Write report.json, report.md and predictions.csv; returns the page."""
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", in_words(report))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(text)
    with whole_file(folder / "predictions.csv") as temporary, temporary.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", "subject", "judged_by", "classifier", "network", *report["classes"]])
        for where, kinds in found.predictions.items():
            rows = [item for item in items if (item.split == TEST) == (where == FIXED_TEST)]
            for kind, networks in kinds.items():
                for network, predicted in networks.items():
                    _write_rows(table, rows, [where, kind, network], predicted)
    return folder / "report.md"


def _write_rows(table: Any, items: Sequence[Item], what: Sequence[str], predicted: Predicted) -> None:
    for item, probabilities in zip(items, predicted.probabilities, strict=True):
        numbers = [f"{value:.6g}" for value in probabilities]
        table.writerow([item.name, item.label, item.subject, *what, *numbers])


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _largest_share(items: Sequence[Item]) -> float:
    return max(Counter(item.label for item in items).values()) / len(items)
