"""The data set's own files: dataset.json for nnU-Net and us, and a table of who was scanned when."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.ingest.ledger import FOLDER, Record
from nnssl.ingest.write import ENDING
from nnssl.planning.cases import ACCEPTED

TABLE = "cases.csv"
_COLUMNS = ("case", "subject", "session", "modality", "split", "source", "notes")


def description(folder: Path) -> dict[str, Any]:
    """dataset.json of an earlier run; empty for a new data set."""
    try:
        content = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_description(folder: Path, taken: Sequence[Record], channels: Mapping[str, str]) -> None:
    """Write dataset.json; keys that somebody else put there stay."""
    accepted = {record.case: record.accepted for record in taken if record.accepted}
    content = {
        **description(folder),
        "channel_names": dict(channels),
        "numTraining": len(taken),
        "file_ending": ENDING,
        "subjects": {record.case: record.subject for record in taken},
        ACCEPTED: accepted,
    }
    content.setdefault("labels", {"background": 0})
    if not accepted:
        del content[ACCEPTED]
    with whole_file(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2))


def write_table(folder: Path, taken: Sequence[Record]) -> None:
    """Write ingest/cases.csv: one row a case."""
    with whole_file(folder / FOLDER / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(_COLUMNS)
        for record in taken:
            modality = " ".join(filter(None, record.modality))
            values = (record.case, record.subject, record.session, modality, record.split, record.source)
            rows.writerow([_harmless(value) for value in (*values, "; ".join(record.notes))])


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
