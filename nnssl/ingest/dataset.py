"""The data set's own files: dataset.json for nnU-Net and us, and a table of who was scanned when."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnssl.atomic import whole_file
from nnssl.ingest.json_stream import Pairs, write_json
from nnssl.ingest.ledger import FOLDER
from nnssl.ingest.records import Records
from nnssl.ingest.write import ENDING
from nnssl.planning.cases import ACCEPTED

TABLE = "cases.csv"
_COLUMNS = ("case", "subject", "session", "modality", "split", "source", "origin", "notes")


def description(folder: Path) -> dict[str, Any]:
    """dataset.json of an earlier run; empty for a new data set."""
    try:
        content = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_description(folder: Path, taken: Records, channels: Mapping[str, str]) -> None:
    """Write dataset.json; keys that somebody else put there stay."""
    kept = {key: value for key, value in description(folder).items() if key not in ("subjects", ACCEPTED)}
    content: dict[str, Any] = {
        "labels": {"background": 0},
        **kept,
        "channel_names": dict(channels),
        "numTraining": len(taken),
        "file_ending": ENDING,
        "subjects": Pairs((record.case, record.subject) for record in taken),
    }
    if any(record.accepted for record in taken):
        content[ACCEPTED] = Pairs((record.case, record.accepted) for record in taken if record.accepted)
    with whole_file(folder / "dataset.json") as temporary, temporary.open("w", encoding="utf-8") as stream:
        write_json(stream, content)


def write_table(folder: Path, taken: Records) -> None:
    """Write ingest/cases.csv: one row a case."""
    with whole_file(folder / FOLDER / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(_COLUMNS)
        for record in taken:
            modality = " ".join(filter(None, record.modality))
            values = (record.case, record.subject, record.session, modality, record.split, record.source, record.origin)
            rows.writerow([_harmless(value) for value in (*values, "; ".join(record.notes))])


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
