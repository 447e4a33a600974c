"""Lists in JSON: MONAI's data lists, and the pretrain_data.json of MIC-DKFZ's nnssl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnssl.errors import DataError
from nnssl.ingest.listed import expanded, listed_file
from nnssl.ingest.names import shown, stem
from nnssl.ingest.scan import Part, Scan
from nnssl.ingest.splits import split_finding

_LONGEST = 64 << 20  # bytes; a list of a million scans has about as many


def list_scans(file: Path) -> Iterator[Scan] | None:
    """The scans of a JSON list; None for any other file."""
    content = _content(file)
    if isinstance(content, dict) and isinstance(content.get("datasets"), (dict, list)):
        return _peers(file, content)
    lists = {"training": content} if isinstance(content, list) else content
    if not isinstance(lists, dict):
        return None
    first = [value[0] for value in lists.values() if isinstance(value, list) and value]
    return _monai(file, lists) if any(isinstance(each, dict) and "image" in each for each in first) else None


def no_list(file: Path) -> DataError:
    """What to say of a source that is a JSON file and no list."""
    return DataError(
        f'{file} is neither a MONAI data list ({{"training": [{{"image": path}}]}}) nor a pretrain_data.json '
        f'({{"datasets": ..}}). Correct it, or give the folder of the scans.'
    )


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_text()) if file.stat().st_size < _LONGEST else None
    except (OSError, ValueError, RecursionError):
        return None


def _monai(file: Path, lists: dict[str, Any]) -> Iterator[Scan]:
    for split, entries in lists.items():
        for entry in entries if isinstance(entries, list) else []:
            images = entry.get("image") if isinstance(entry, dict) else entry
            if not isinstance(images, (str, list)) or (isinstance(entry, dict) and "image" not in entry):
                continue
            subject = str(entry.get("subject", "")) if isinstance(entry, dict) else ""
            yield _scan(images if isinstance(images, list) else [images], file, split=str(split), subject=subject)


def _peers(file: Path, content: dict[str, Any]) -> Iterator[Scan]:
    for dataset in _entries(content["datasets"]):
        for subject_name, subject in _named(dataset.get("subjects"), "subject_id"):
            for session_name, session in _named(subject.get("sessions"), "session_id"):
                for image in _entries(session.get("images")):
                    path = expanded(image.get("image_path"))
                    prefix = str(dataset.get("name") or dataset.get("dataset_index") or "")
                    yield _scan(
                        [path],
                        file,
                        modality=str(image.get("modality") or ""),
                        subject="_".join(filter(None, (prefix, subject_name))),
                        session=session_name,
                    )


def _entries(value: Any) -> list[dict[str, Any]]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [each for each in inside if isinstance(each, dict)]


def _named(value: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    pairs = value.items() if isinstance(value, dict) else ((str(each.get(key, "")), each) for each in _entries(value))
    return [(str(each.get(key) or name), each) for name, each in pairs if isinstance(each, dict)]


def _scan(
    paths: list[Any], file: Path, *, split: str = "", modality: str = "", subject: str = "", session: str = ""
) -> Scan:
    found = [listed_file(path, file.parent, file.parent) for path in paths]
    for each in found:
        if isinstance(each, Scan):
            return each
    files = [each for each in found if isinstance(each, Path)]
    if not files:
        return listed_file("", file.parent, file.parent)  # type: ignore[return-value]
    name = "_".join(filter(None, (subject, session, stem(files[0]))))
    return Scan(
        parts=tuple(Part(files=(each,), modality=modality) for each in files),
        shown=", ".join(shown(each, file.parent) for each in files),
        name=name,
        subject=subject or stem(files[0]),
        session=session,
        split=split,
        refused=split_finding(split),
    )
