"""The list of preprocessed cases in a configuration's folder: `nnssl_index.json`.

Array jobs write `nnssl_index.part-1-of-4.json` each; reading merges them. A folder that stock nnU-Net preprocessed has
no index: its entries are then read from the headers of its `.b2nd` files, and its pickles are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.atomic import whole_file
from nnssl.data.case import CaseEntry, Constants
from nnssl.errors import DataError

INDEX_FILE = "nnssl_index.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Index:
    """All cases of one folder.

    Attributes:
        dataset: "Dataset745_Thorax".
        made_from: what determined the voxels (spacing, normalisation, ...); empty for a stock nnU-Net folder.
        entries: by case, sorted by name.
        quarantined: {case: why it was left out}.
    """

    dataset: str
    made_from: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, CaseEntry] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)


def index_file(part: tuple[int, int] | None = None) -> str:
    """The index's file name, of the whole folder or of part (i, n) of an array job, i from 1."""
    return INDEX_FILE if part is None else f"nnssl_index.part-{part[0]}-of-{part[1]}.json"


def write_index(folder: Path, index: Index, *, part: tuple[int, int] | None = None) -> None:
    """Write the index of `folder`, whole or not at all."""
    head = {"format": _FORMAT, "dataset": index.dataset, "made_from": index.made_from}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    lines.append(f' "quarantined": {_one_a_line(index.quarantined)}')
    lines.append(f' "entries": {_one_a_line({name: _to_json(entry) for name, entry in index.entries.items()})}')
    with whole_file(folder / index_file(part)) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_index(folder: Path) -> Index:
    """The cases of a preprocessed folder, ours or stock nnU-Net's.

    Raises:
        DataError: no such folder, no cases in it, a damaged index, or parts made with different plans.
    """
    if not folder.is_dir():
        raise DataError(
            f"A preprocessed folder is needed, but {folder} does not exist. Run nnssl_plan_and_preprocess for this "
            f"data set and configuration first."
        )
    index = stored_index(folder) or _index_of_stock_folder(folder)
    if not index.entries:
        raise DataError(f"{folder} holds no preprocessed cases (*.b2nd). Run nnssl_plan_and_preprocess first.")
    return index


def stored_index(folder: Path) -> Index | None:
    """What our index files in `folder` say, merged; None where there is none.

    Where several files list a case, the one written last counts: an array job of another size, or a run that was
    killed before it removed the parts, may have left older entries.

    Raises:
        DataError: a damaged index, or parts made with different plans.
    """
    found = [file for file in (folder / INDEX_FILE, *folder.glob("nnssl_index.part-*-of-*.json")) if file.is_file()]
    merged: Index | None = None
    for file in sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.name)):
        index = _read_file(file)
        if merged is None:
            merged = index
        elif merged.made_from != index.made_from:
            raise DataError(
                f"The index files in {folder} were made with different plans ({file.name} differs in "
                f"{', '.join(differing_keys(merged.made_from, index.made_from))}). Preprocess with --clean."
            )
        else:
            quarantined = {**merged.quarantined, **index.quarantined}
            entries = dict(sorted({**merged.entries, **index.entries}.items()))
            left_out = {name: reason for name, reason in quarantined.items() if name not in entries}
            merged = Index(dataset=index.dataset, made_from=index.made_from, entries=entries, quarantined=left_out)
    return merged


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys with different values, sorted."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _read_file(file: Path) -> Index:
    try:
        content = json.loads(file.read_text())
        if content["format"] != _FORMAT:
            raise DataError(
                f"{file} has index format {content['format']}, this version reads {_FORMAT}. Preprocess again with "
                f"--clean, or use the version of nnssl that wrote it."
            )
        return Index(
            dataset=content["dataset"],
            made_from=content["made_from"],
            entries={name: _from_json(entry, file.parent) for name, entry in content["entries"].items()},
            quarantined=content["quarantined"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"The index {file} cannot be read ({error!r}). Delete it and preprocess again.") from error


def _one_a_line(items: Mapping[str, Any]) -> str:
    """JSON with one case a line, so that `grep CASE` shows all about it."""
    lines = [f"  {json.dumps(name)}: {json.dumps(items[name])}" for name in sorted(items)]
    return "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"


def _to_json(entry: CaseEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "folder"}


def _from_json(stored: Mapping[str, Any], folder: Path) -> CaseEntry:
    values = dict(stored)
    for name in ("shape", "spacing_mm", "modality"):
        values[name] = tuple(values[name])
    for name in ("to_world", "bbox"):
        values[name] = tuple(tuple(row) for row in values[name])
    values["constants"] = tuple(Constants(**constants) for constants in values["constants"])
    for name in (values["file"], *values.get("sidecars", {}).values(), *filter(None, [values.get("raw_file")])):
        if Path(name).name != name:
            raise ValueError(f"file {name!r} of {stored['case_id']}, which must lie in the folder itself")
    if len(values["shape"]) != 3 or not all(isinstance(side, int) and side > 0 for side in values["shape"]):
        raise ValueError(f"shape {stored['shape']!r} of {stored['case_id']}")
    if np.shape(values["to_world"]) != (4, 4) or not np.isfinite(np.asarray(values["to_world"], float)).all():
        raise ValueError(f"to_world {stored['to_world']!r} of {stored['case_id']}")
    return CaseEntry(folder=folder, **values)


def _index_of_stock_folder(folder: Path) -> Index:
    from nnssl.data.store import read_header

    dataset = folder.parent.name
    spacing = _spacing_of(folder)
    modality = _modality_of(folder.parent)
    entries = {}
    for file in sorted(folder.glob("*.b2nd")):
        if file.stem.endswith("_seg"):
            continue
        shape, dtype = read_header(file)
        entries[file.stem] = CaseEntry(
            case_id=file.stem,
            dataset=dataset,
            folder=folder,
            file=file.name,
            shape=(shape[1], shape[2], shape[3]),
            channels=shape[0],
            dtype=dtype,
            spacing_mm=spacing,
            to_world=tuple(tuple(float(v) for v in row) for row in np.diag([*spacing, 1.0])),  # type: ignore[misc]
            subject=file.stem,
            modality=modality if len(modality) == shape[0] else ("unknown",) * shape[0],
        )
    return Index(dataset=dataset, entries=entries)


def _spacing_of(folder: Path) -> tuple[float, float, float]:
    """The spacing of the configuration whose data lie in `folder`, from the plans files beside it; else 1 mm."""
    for file in sorted(folder.parent.glob("*.json")):
        content = _json_or_empty(file)
        configurations = content.get("configurations")
        if not isinstance(configurations, dict):
            continue
        for configuration in configurations.values():
            spacing = configuration.get("spacing", [])
            if configuration.get("data_identifier") == folder.name and len(spacing) == 3:
                return float(spacing[0]), float(spacing[1]), float(spacing[2])
    return 1.0, 1.0, 1.0


def _modality_of(dataset_folder: Path) -> tuple[str, ...]:
    content = _json_or_empty(dataset_folder / "dataset.json")
    names = content.get("channel_names") or content.get("modality") or {}
    return tuple(str(names[key]).lower() for key in sorted(names, key=int))


def _json_or_empty(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
