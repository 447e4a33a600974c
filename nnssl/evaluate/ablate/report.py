"""The one table of an ablation: label-free signals of every setting, and what labelled cases say against the base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.evaluate.ablate.plan import Run
from nnssl.evaluate.ablate.run import Ablation, plain_setting, title
from nnssl.evaluate.statistics import compare

# name in health.json, head of the column, format
SIGNALS = (
    ("dense_mm", "dense error mm", "{:.2f}"),
    ("retrieval_recall", "crop retrieval", "{:.0%}"),
    ("position_mm", "position error mm", "{:.1f}"),
    ("rankme", "RankMe", "{:.1f}"),
    ("feature_std", "feature std", "{:.3f}"),
)
_LIGHTS = ("green", "yellow", "red")
_NOTES = (
    "All runs have the same number of steps and samples. In brackets: the network before its first step, or the range "
    "over seeds.",
    "Label-free signals tell collapse and decay, on held-out boxes; no study shows that they select the network that "
    "segments best. Losses of different objectives or views are not comparable, and are left out of the table.",
    "Nothing here is corrected for the number of settings: of twenty that change nothing, one looks better or worse.",
)
_ONE_SEED = (
    "Every setting is one run with one seed: runs with other seeds differ, too, and how much is not in any figure "
    "here. Run again with --seeds 3 before choosing by a small difference."
)
_SEVERAL_SEEDS = "Intervals are over test subjects, on the mean over seeds; how seeds differ is shown as a range only."


def make_report(ablation: Ablation) -> dict[str, Any]:
    """Everything that was measured, as JSON values.

    Raises:
        DataError: a run left no health.json, or a judge no report.
    """
    request = ablation.request
    settings: dict[tuple[str, str], list[Run]] = {}
    for run in request.runs:
        settings.setdefault(run.setting, []).append(run)
    rows = [
        {"setting": title(runs[0]), "runs": [_signals(ablation, run) for run in runs], "judged": {}}
        for runs in settings.values()
    ]
    judge = None if request.target is None else request.judge
    if judge == "probe":
        _add_probe(rows, [[ablation.judged(run) for run in runs] for runs in settings.values()])
    elif judge == "compare":
        _add_comparison(
            rows, [[ablation.folder(run) for run in runs] for runs in settings.values()], ablation.comparison
        )
    seeds = len(rows[0]["runs"])
    return {
        "trainer": request.trainer,
        "datasets": list(request.datasets),
        "steps": request.runs[0].recipe.total_steps,
        "batch_size": request.runs[0].recipe.batch_size,
        "seeds": seeds,
        "target": request.target,
        "judge": judge,
        "rows": rows,
        "notes": [*_NOTES, _ONE_SEED if seeds == 1 else _SEVERAL_SEEDS],
    }


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page."""
    judges = list(dict.fromkeys(name for row in report["rows"] for name in row["judged"]))
    heads = ["setting", "health", *(head for _, head, _ in SIGNALS), *judges]
    lines = [
        f"# Ablation of {report['trainer']} on {', '.join(report['datasets'])}",
        "",
        f"{report['steps']} steps of {report['batch_size']} samples a run, {report['seeds']} seed(s) a setting.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    said = []
    for row in report["rows"]:
        cells = [row["setting"], _light(row["runs"]), *(_signal(row["runs"], name, form) for name, _, form in SIGNALS)]
        for name in judges:
            found = row["judged"].get(name)
            cells.append("-" if found is None else _judged(found))
            if found is not None and "sentence" in found:
                said.append(f"- {row['setting']}, {name}, against {found['against']}: {found['sentence']}.")
        lines.append(f"| {' | '.join(cells)} |")
    for row in report["rows"]:
        warnings = dict.fromkeys(text for run in row["runs"] for text in run["warnings"])
        said += [f"- {row['setting']}: {text}" for text in warnings]
    return "\n".join([*lines, "", *said, *(f"- {note}" for note in report["notes"])]) + "\n"


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ablation.json and ablation.md; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("ablation.json", json.dumps(report, indent=1) + "\n"), ("ablation.md", in_words(report))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(text)
    return folder / "ablation.md"


def _signals(ablation: Ablation, run: Run) -> dict[str, Any]:
    """What a finished run measured of itself."""
    file = ablation.folder(run) / "health.json"
    health = _json(file)
    try:
        last = health["history"][-1]
        return {
            **plain_setting(run),
            "folder": str(ablation.folder(run)),
            "light": last["light"],
            "warnings": last["sentences"][1:],
            "start": health["start"],
            "end": last["values"],
        }
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{file} holds no finished measurement ({error!r}). Remove the run and start again.") from error


def _add_probe(rows: Sequence[dict[str, Any]], folders: Sequence[Sequence[Path]]) -> None:
    """Mean Dice of both heads, and the paired difference to the base over subjects."""
    base: dict[str, dict[str, float]] = {}
    for row, runs in zip(rows, folders, strict=True):
        reports = [_json(folder / "report.json") for folder in runs]
        for head in ("linear", "non_linear"):
            scores = [report["subjects"]["pretrained"][head] for report in reports]
            mean = {subject: _mean([one[subject] for one in scores]) for subject in scores[0]}
            name = f"{head.replace('_', '-')} probe"
            row["judged"][name] = {"values": [_mean(one.values()) for one in scores], "unit": "Dice"}
            if head in base:
                row["judged"][name] |= _difference(base[head], mean)
            else:
                base[head] = mean


def _difference(base: Mapping[str, float], found: Mapping[str, float]) -> dict[str, Any]:
    try:
        paired = compare(list(base.values()), [found[subject] for subject in base])
    except DataError:
        return {}
    return {
        "against": "the base", "gain": paired.gain, "low": paired.low, "high": paired.high,
        "verdict": paired.verdict, "sentence": paired.sentence(units="subjects"),
    }  # fmt: skip


def _add_comparison(rows: Sequence[dict[str, Any]], folders: Sequence[Sequence[Path]], folder: Path) -> None:
    """Dice after fine-tuning with every number of labels, and what nnssl_compare says against training from scratch."""
    report = _json(folder / "report.json")
    arms = {Path(arm["weights"]).parent: name for name, arm in report["arms"].items() if arm["weights"]}
    for row, runs in zip(rows, folders, strict=True):
        for target, found in report["targets"].items():
            for labels, counted in found["labels"].items():
                name = f"{target}, {labels} label(s)"
                values = [counted["arms"][arms[run]]["dice"]["mean"] for run in runs]
                row["judged"][name] = {"values": values, "unit": "Dice"}
                if len(runs) == 1:
                    difference = counted["differences"][arms[runs[0]]]
                    row["judged"][name] |= {"against": difference["against"], **difference["dice"]}


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is needed and cannot be read ({error}). Run the same command again.") from error
    return content


def _light(runs: Sequence[Mapping[str, Any]]) -> str:
    """The worst one."""
    return max((str(run["light"]) for run in runs), key=_LIGHTS.index)


def _signal(runs: Sequence[Mapping[str, Any]], name: str, form: str) -> str:
    values = [run["end"].get(name) for run in runs]
    if any(value is None for value in values):
        return "-"
    if len(values) > 1:
        return f"{form.format(_mean(values))} ({form.format(min(values))} to {form.format(max(values))})"
    start = runs[0]["start"].get(name)
    return form.format(values[0]) + ("" if start is None else f" ({form.format(start)})")


def _judged(found: Mapping[str, Any]) -> str:
    values = [value for value in found["values"] if value is not None]
    text = f"{_mean(values):.3f}" if values else "-"
    if len(values) > 1:
        text += f" ({min(values):.3f} to {max(values):.3f})"
    if "gain" in found:
        text += f"; {found['gain']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    return text


def _mean(values: Any) -> float:
    counted = [float(value) for value in values if value is not None and not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
