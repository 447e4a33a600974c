"""The report of a demonstration: numbers, a table in words, and the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from nnssl.demo.cohort import TARGET, Cohort
from nnssl.demo.measure import difference, probe, summary
from nnssl.demo.settings import LABELS, Settings
from nnssl.demo.small_plan import CONFIGURATION, NAME
from nnssl.evaluate.runs import read_arm
from nnssl.report.figures import Comparison, Example, draw_comparison, labelled

if TYPE_CHECKING:
    from nnssl.demo.run import Paths

REPORT, PICTURE = "report.json", "comparison.png"
MISSED = 0.1  # mean Dice under which an organ was not found at all


def make_report(paths: Paths, cohort: Cohort, settings: Settings, seconds: float) -> dict[str, Any]:
    """Measure what is on disk, write `report.json` and `comparison.png`, return the report."""
    home = paths.preprocessed / cohort.target
    plans = json.loads((home / f"{NAME}.json").read_text())
    weights = paths.weights(cohort, settings.trainer)
    folder = home / f"{NAME}_{CONFIGURATION}"
    untrained, trained = probe(plans, cohort, folder, None), probe(plans, cohort, folder, weights)
    runs = {}
    for fold, count in enumerate(LABELS):
        arms = {arm: read_arm(paths.fold(cohort, arm, fold)) for arm in ("scratch", "pretrained")}
        runs[str(count)] = {
            **{
                arm: {
                    **summary(found.final),
                    "curve": found.curve,
                    "organs": dict(zip(cohort.organs, found.organs, strict=True)),
                }
                for arm, found in arms.items()
            },
            "difference": difference(arms["scratch"].final, arms["pretrained"].final),
        }
    report = {
        "cohort": cohort.source,
        "trainer": settings.trainer,
        "pretraining_steps": settings.pretraining_steps,
        "unlabelled": cohort.unlabelled,
        "finetuning_iterations": settings.finetuning_iterations,
        "seconds": round(seconds),
        "probe": {
            "untrained": summary(untrained),
            "pretrained": summary(trained),
            "difference": difference(untrained, trained),
        },
        "labels": runs,
    }
    (paths.root / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    draw_comparison(paths.root / PICTURE, _picture(report), example(paths, cohort))
    return report


def table(report: Mapping[str, Any]) -> str:
    """The report as a table and the sentences that it allows."""
    rows = [("frozen linear probe, 5 labels", report["probe"]["untrained"], report["probe"]["pretrained"])]
    rows += [(f"fine-tuned, {labelled(int(count))}", run["scratch"], run["pretrained"]) for count, run in _runs(report)]
    lines = [
        f"Mean Dice of {len(rows[0][1]['cases'])} test subjects [95 % interval over them]",
        f"{'':31}{'without pretraining':26}{report['trainer']}",
    ]
    lines += [f"{name:31}{_cell(without):26}{_cell(trained)}" for name, without, trained in rows]
    lines += ["", f"Probe: {report['probe']['difference']['sentence']}."]
    for count, run in _runs(report):
        lines += [f"{labelled(int(count))}: {_claim(run)}", *_organ_lines(run)]
    lines += [
        "Each figure is one run with one seed: the intervals are over test subjects and do not hold how much a run "
        "varies with its seed and its labelled scans."
    ]
    return "\n".join(lines)


def example(paths: Paths, cohort: Cohort) -> Example:
    """A slice of the first test case, its truth and both predictions at the fewest labels.

    The slice that shows most organs, and of those the one with most of the organ it shows least of.
    """
    case = cohort.test[0]
    raw = paths.raw / f"Dataset{TARGET}_{cohort.target.split('_', 1)[1]}"
    truth = _read(raw / "labelsTr" / f"{case}.nii.gz")
    areas = np.stack([(truth == label + 1).sum(axis=(1, 2)) for label in range(len(cohort.organs))])
    shown = (areas > 0).sum(axis=0)
    least = np.where(areas > 0, areas, areas.max() + 1).min(axis=0)
    index = int(np.where(shown == shown.max(), least, 0).argmax())
    predictions = {
        arm: _read(paths.fold(cohort, arm, 0) / "validation" / f"{case}.nii.gz")[index]
        for arm in ("scratch", "pretrained")
    }
    return Example(
        case=case,
        image=_read(raw / "imagesTr" / f"{case}_0000.nii.gz")[index].astype(np.float32),
        truth=truth[index],
        scratch=predictions["scratch"],
        pretrained=predictions["pretrained"],
        labels=LABELS[0],
        organs=cohort.organs,
    )


def _read(path: Path) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return found


def _runs(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(report["labels"].items(), key=lambda item: int(item[0]))


def missed_organs(run: Mapping[str, Any]) -> list[str]:
    """Organs that one of the two runs hardly found: a mean Dice of them compares a failure, not two segmentations."""
    arms = (run["scratch"]["organs"], run["pretrained"]["organs"])
    return [organ for organ in arms[0] if min(float(arm[organ]) for arm in arms) < MISSED]


def _claim(run: Mapping[str, Any]) -> str:
    missed = missed_organs(run)
    if not missed:
        return f"{run['difference']['sentence']}."
    points = 100 * (run["pretrained"]["mean"] - run["scratch"]["mean"])
    return (
        f"{points:+.1f} Dice points, but one of the two runs hardly found {' and '.join(missed)} "
        f"(Dice under {MISSED}): nothing can be claimed from one seed. Train longer or with several seeds."
    )


def _organ_lines(run: Mapping[str, Any]) -> list[str]:
    without, trained = run["scratch"]["organs"], run["pretrained"]["organs"]
    return [f"    {organ:20}{float(without[organ]):.3f} -> {float(trained[organ]):.3f}" for organ in without]


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _picture(report: Mapping[str, Any]) -> Comparison:
    def point(found: Mapping[str, Any]) -> tuple[float, float, float]:
        """Mean, and both ends of its interval."""
        return found["mean"], found["low"], found["high"]

    return Comparison(
        trainer=report["trainer"],
        probe={"untrained": point(report["probe"]["untrained"]), "pretrained": point(report["probe"]["pretrained"])},
        curves={
            (int(count), arm): [(int(x), float(y)) for x, y in run[arm]["curve"]]
            for count, run in _runs(report)
            for arm in ("scratch", "pretrained")
        },
        final={(int(count), arm): point(run[arm]) for count, run in _runs(report) for arm in ("scratch", "pretrained")},
    )
