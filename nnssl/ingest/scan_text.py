"""Scans as JSON, for SQLite's private tables and for the readers' processes.

Names of files need not be UTF-8: Python keeps such bytes as lone surrogates, which JSON in ASCII writes as escapes, so
that they come back as they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnssl.ingest.scan import Part, Scan
from nnssl.planning.checks import Finding


def scan_to_text(scan: Scan) -> str:
    """The scan in one line of ASCII."""
    return to_text(scan_to_plain(scan))


def scan_from_text(text: str) -> Scan:
    """The scan of `scan_to_text`."""
    return scan_from_plain(json.loads(text))


def to_text(plain: Any) -> str:
    """Plain values in one line of ASCII."""
    return json.dumps(plain, separators=(",", ":"))


def scan_to_plain(scan: Scan) -> dict[str, Any]:
    """The scan as plain values for JSON."""
    refused = scan.refused and [scan.refused.reason, scan.refused.sentence]
    return {**vars(scan), "parts": [_part_to_plain(part) for part in scan.parts], "refused": refused}


def scan_from_plain(plain: dict[str, Any]) -> Scan:
    """The scan of `scan_to_plain`, after JSON."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    values["parts"] = tuple(_part_from_plain(part) for part in plain["parts"])
    values["odd"] = tuple((name, sentence) for name, sentence in plain["odd"])
    values["refused"] = plain["refused"] and Finding(*plain["refused"])
    return Scan(**values)


def _part_to_plain(part: Part) -> dict[str, Any]:
    return {**vars(part), "files": [str(file) for file in part.files]}


def _part_from_plain(plain: dict[str, Any]) -> Part:
    spacing = plain["spacing_mm"]
    files = tuple(Path(file) for file in plain["files"])
    return Part(**{**plain, "files": files, "spacing_mm": None if spacing is None else tuple(spacing)})
