"""report.json and report.html of an ingest: what was taken, what was refused and why, what looks odd."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnssl.atomic import whole_file
from nnssl.ingest.json_stream import Rows, write_json
from nnssl.ingest.record import Record, printable
from nnssl.ingest.report_html import found_twice, page
from nnssl.planning.refusal import REASONS

if TYPE_CHECKING:
    from nnssl.ingest.run import Outcome

HTML, JSON = "report.html", "report.json"
_LINES = 8  # of each kind on the console


def write_report(folder: Path, name: str, outcome: Outcome, pictures: Path) -> None:
    """Write both files, case by case.

    Args:
        folder: where to; made where absent.
        name: of the data set.
        outcome: of the ingest.
        pictures: folder of the pictures of scans, which the page takes in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = overview(name, outcome)
    rows = {"taken": Rows(map(_row, outcome.taken)), "refused": Rows(map(_row, outcome.refused))}
    with whole_file(folder / JSON) as temporary, temporary.open("w", encoding="utf-8") as stream:
        write_json(stream, {**content, **rows})
    with whole_file(folder / HTML) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(page(content, outcome.taken, outcome.refused, pictures))


def overview(name: str, outcome: Outcome) -> dict[str, Any]:
    """The report's numbers, without its rows."""
    subjects = array("q")  # hashes: 8 bytes a case
    suspicions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    links = odd = pictures = odd_pictures = bad_pictures = 0
    for record in outcome.records:
        if record.status == "taken":
            subjects.append(hash(record.subject))
            suspicions.update(record.suspicions.keys())
            links += record.linked
            odd += bool(record.suspicions)
            pictures += bool(record.picture) and not record.suspicions
            odd_pictures += bool(record.picture and record.suspicions)
        elif record.status == "refused":
            reasons[record.reason] += 1
            bad_pictures += bool(record.picture)
    return {
        "dataset": name,
        "channel_names": outcome.channels,
        "counts": {
            "taken": len(outcome.taken),
            "refused": len(outcome.refused),
            "read_now": outcome.new,
            "known_before": outcome.kept,
            "left_now": outcome.lost,
            "subjects": len(np.unique(np.frombuffer(subjects, np.int64))),
            "links": links,
            "suspicious": odd,
        },
        "pictures": {"refused": bad_pictures, "suspicious": odd_pictures, "others": pictures},
        "reasons": dict(reasons.most_common()),
        "suspicions": dict(suspicions.most_common()),
        "subjects_by": dict(outcome.subjects),
        "layouts": dict(outcome.layouts),
        "described": dict(outcome.described),
        "ignored": dict(outcome.ignored),
        "found_twice": {"count": outcome.twice, "named": [printable(line) for line in outcome.named_twice]},
    }


def summary(name: str, outcome: Outcome) -> list[str]:
    """A few lines for the console."""
    content = overview(name, outcome)
    counts = content["counts"]
    lines = [
        f"{name}: {counts['taken']} cases of {counts['subjects']} subjects ({counts['links']} as links), channels "
        f"{', '.join(outcome.channels.values())}; {counts['read_now']} scans read now, {counts['known_before']} known "
        f"from before."
    ]
    if outcome.subjects:
        by = ", ".join(f"{count} by {printable(how)}" for how, count in outcome.subjects[:_LINES])
        more = f" and {len(outcome.subjects) - _LINES} more ways" if len(outcome.subjects) > _LINES else ""
        lines.append(f"Subjects: {by}{more}.")
    if counts["left_now"]:
        lines.append(f"{counts['left_now']} cases that were in the data set left it; they are among the refused.")
    if twice := found_twice(content, _LINES):
        lines.append(twice)
    if content["described"]:
        files = ", ".join(f"{count} {kind}" for kind, count in content["described"].items())
        lines.append(f"Read as descriptions: {files}.")
    if content["ignored"]:
        rest = ", ".join(f"{count} {kind}" for kind, count in content["ignored"].items())
        lines.append(f"Not looked at: {rest}.")
    if counts["refused"]:
        lines.append(f"{counts['refused']} scans refused:")
    for reason, count in content["reasons"].items():
        accept = f"; --accept {reason}: {REASONS[reason].accepted}" if REASONS[reason].accepted else ""
        lines.append(f"  {reason} ({count}): {REASONS[reason].means}{accept}")
        for record, _ in zip(outcome.refused.of(reason), range(_LINES), strict=False):
            lines.append(f"    {record.source}: {record.sentence}")
        lines += _more(count, outcome)
    return lines + _suspicions(content["suspicions"], counts["suspicious"], outcome)


def _suspicions(counts: dict[str, int], cases: int, outcome: Outcome) -> list[str]:
    first: dict[str, list[str]] = {name: [] for name in counts}
    for record in outcome.taken if counts else ():
        for name, text in record.suspicions.items():
            if len(first[name]) < _LINES:
                first[name].append(f"    {record.case}: {text}")
    total = sum(counts.values())
    lines = [f"Suspicious, but taken: {cases} cases, for {total} reasons in all."] if len(counts) > 1 else []
    for name, count in counts.items():
        lines += [f"Suspicious, but taken: {name} ({count})", *first[name], *_more(count, outcome)]
    return lines


def _more(count: int, outcome: Outcome) -> list[str]:
    where = "see the report" if outcome.report else "which --report DIR shows"
    return [f"    ... and {count - _LINES} more, {where}"] if count > _LINES else []


def _row(record: Record) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in ("stamp", "content", "allowed")}
