"""Lists in JSON: MONAI's data lists, and the pretrain_data.json of MIC-DKFZ's nnssl."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnssl.errors import DataError
from nnssl.ingest.listed import RootOf, expanded, listed_file, root_of_paths
from nnssl.ingest.names import ending, shown, stem
from nnssl.ingest.scan import Part, Scan, refused
from nnssl.ingest.splits import is_held, split_finding, split_of, strictest

_LONGEST = 64 << 20  # bytes; a list of a million scans has about as many


def list_scans(file: Path) -> Iterator[Scan] | None:
    """The scans of a JSON list; None for any other file."""
    content = _content(file)
    if isinstance(content, dict) and isinstance(content.get("datasets"), (dict, list)):
        return _scans(file, lambda: _peers(content))
    lists = {"training": content} if isinstance(content, list) else content
    if not isinstance(lists, dict):
        return None
    is_list = any(_has_image(entry) for part in lists.values() for _, entry in _of_part(part))
    return _scans(file, lambda: _monai(lists)) if is_list else None


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


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What a list says of one scan."""

    row: str
    paths: list[Any]
    split: str = ""
    modality: str = ""
    subject: str = ""
    session: str = ""
    wrong: str = ""


def _scans(file: Path, entries: Callable[[], Iterator[_Entry]]) -> Iterator[Scan]:
    root_of = root_of_paths((path for entry in entries() for path in entry.paths), file.parent)
    for entry in entries():
        yield _scan(entry, file.parent, root_of)


def _monai(lists: dict[str, Any]) -> Iterator[_Entry]:
    for split, part in lists.items():
        entries = _of_part(part)
        known = is_held(split) or split_finding(split) is None or any(_has_image(entry) for _, entry in entries)
        if not entries and _holds_images(part, known=known):
            yield _Entry(row=f"part {split!r}", paths=[], wrong="its entries stand in no list", split=split)
        for name, entry in entries:
            row = f"entry {name} of {split!r}"
            if isinstance(entry, dict) and _has_image(entry):
                images, subject = entry["image"], str(entry.get("subject", ""))
                paths = images if isinstance(images, list) else [images]
                yield _Entry(row=row, paths=paths, split=strictest((split, split_of(entry))), subject=subject)
            elif isinstance(entry, str):
                yield _Entry(row=row, paths=[entry], split=split)
            elif known:
                yield _Entry(row=row, paths=[], split=split, wrong='it has no "image" with a path')


def _of_part(part: Any) -> list[tuple[str, Any]]:
    """(name, entry) of a part of a list; none where it is no list, and no object of which the values are entries."""
    if isinstance(part, list):
        return [(str(number), entry) for number, entry in enumerate(part, 1)]
    if isinstance(part, dict) and any(_has_image(each) or _is_volume(each) for each in part.values()):
        return [(repr(name), entry) for name, entry in part.items()]
    return []


def _has_image(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("image"), (str, list))


def _is_volume(entry: Any) -> bool:
    return isinstance(entry, str) and bool(ending(Path(entry)))


def _holds_images(part: Any, *, known: bool) -> bool:
    """Whether something that is no part of a list looks as if it had scans in it.

    Args:
        part: the value.
        known: its name says training or testing.
    """
    if isinstance(part, str):
        return known and (_is_volume(part) or Path(part).suffix.lower() in (".json", ".csv", ".txt"))
    inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return _has_image(part) or (known and bool(inside)) or any(_holds_images(each, known=False) for each in inside)


def _peers(content: dict[str, Any]) -> Iterator[_Entry]:
    for dataset in _entries(content["datasets"]):
        for subject_name, subject in _named(dataset.get("subjects"), "subject_id"):
            for session_name, session in _named(subject.get("sessions"), "session_id"):
                for number, image in enumerate(_entries(session.get("images")), 1):
                    prefix = str(dataset.get("name") or dataset.get("dataset_index") or "")
                    yield _Entry(
                        row=f"image {number} of a session",
                        paths=[expanded(image.get("image_path"))],
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


def _scan(entry: _Entry, folder: Path, root_of: RootOf) -> Scan:
    if entry.wrong:
        return refused(entry.row, "bad_list", f"it is not understood: {entry.wrong}", where=f"{folder} {entry.row}")
    paths = entry.paths or [""]
    found = [listed_file(path, folder, root_of, row=entry.row, split=entry.split) for path in paths]
    if wrong := [each for each in found if isinstance(each, Scan)]:
        others = [str(each) for each in found if isinstance(each, Path) and split_finding(entry.split)]
        return replace(wrong[0], claims=(*others, *(claim for each in wrong for claim in each.claims)))
    files = [each for each in found if isinstance(each, Path)]
    roots = [root_of(each) for each in files]
    name = "_".join(filter(None, (entry.subject, entry.session, stem(files[0]))))
    return Scan(
        parts=tuple(Part(files=(each,), modality=entry.modality) for each in files),
        shown=", ".join(shown(each, root) for each, root in zip(files, roots, strict=True)),
        above=str(roots[0]),
        name=name,
        subject=entry.subject or stem(files[0]),
        session=entry.session,
        split=entry.split,
        refused=split_finding(entry.split),
    )
