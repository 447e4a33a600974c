"""report.json and report.html of an ingest: what was taken, what was refused and why, what looks odd."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.atomic import whole_file
from nnssl.ingest.ledger import Record
from nnssl.ingest.report_html import page
from nnssl.planning.refusal import REASONS

if TYPE_CHECKING:
    from nnssl.ingest.run import Outcome

HTML, JSON = "report.html", "report.json"
_LINES = 8  # of each kind on the console


def write_report(folder: Path, name: str, outcome: Outcome, pictures: Path) -> None:
    """Write both files.

    Args:
        folder: where to; made where absent.
        name: of the data set.
        outcome: of the ingest.
        pictures: folder of the pictures of scans, which the page takes in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = as_json(name, outcome)
    with whole_file(folder / JSON) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    with whole_file(folder / HTML) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(page(content, pictures))


def as_json(name: str, outcome: Outcome) -> dict[str, Any]:
    """The report's numbers."""
    return {
        "dataset": name,
        "channel_names": outcome.channels,
        "counts": {
            "taken": len(outcome.taken),
            "refused": len(outcome.refused),
            "read_now": outcome.new,
            "known_before": outcome.kept,
            "subjects": len({record.subject for record in outcome.taken}),
            "links": sum(record.linked for record in outcome.taken),
        },
        "reasons": dict(Counter(record.reason for record in outcome.refused).most_common()),
        "suspicions": dict(Counter(name for record in outcome.taken for name in record.suspicions).most_common()),
        "layouts": dict(outcome.layouts),
        "ignored": dict(outcome.ignored),
        "taken": [_row(record) for record in outcome.taken],
        "refused": [_row(record) for record in outcome.refused],
    }


def summary(name: str, outcome: Outcome) -> list[str]:
    """A few lines for the console."""
    content = as_json(name, outcome)
    counts = content["counts"]
    lines = [
        f"{name}: {counts['taken']} cases of {counts['subjects']} subjects ({counts['links']} as links), channels "
        f"{', '.join(outcome.channels.values())}; {counts['read_now']} scans read now, {counts['known_before']} known "
        f"from before."
    ]
    if content["ignored"]:
        rest = ", ".join(f"{count} {kind}" for kind, count in content["ignored"].items())
        lines.append(f"Not looked at: {rest}.")
    if outcome.refused:
        lines.append(f"{len(outcome.refused)} scans refused:")
    for reason, count in content["reasons"].items():
        accept = f"; --accept {reason}: {REASONS[reason].accepted}" if REASONS[reason].accepted else ""
        lines.append(f"  {reason} ({count}): {REASONS[reason].means}{accept}")
        lines += _some([f"{r.source}: {r.sentence}" for r in outcome.refused if r.reason == reason])
    for suspicion, count in content["suspicions"].items():
        lines.append(f"Suspicious, but taken: {suspicion} ({count})")
        lines += _some([f"{r.case}: {r.suspicions[suspicion]}" for r in outcome.taken if suspicion in r.suspicions])
    return lines


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"    ... and {len(lines) - _LINES} more, see the report"] if len(lines) > _LINES else []
    return [f"    {line}" for line in lines[:_LINES]] + more


def _row(record: Record) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in ("stamp", "content")}
