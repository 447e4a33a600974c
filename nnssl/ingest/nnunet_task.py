"""Task folders: nnU-Net's (channel_names, CASE_0000) and the Medical Segmentation Decathlon's (training, modality)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnssl.errors import DataError
from nnssl.ingest.listed import listed_file
from nnssl.ingest.names import shown, stem
from nnssl.ingest.scan import Part, Scan, refused
from nnssl.paths import Folders
from nnssl.planning.cases import read_raw_dataset

JSON = "dataset.json"


def is_task(folder: Path) -> bool:
    """Whether a folder has imagesTr and a dataset.json."""
    return (folder / JSON).is_file() and (folder / "imagesTr").is_dir()


def task_scans(folder: Path, root: Path) -> list[Scan] | None:
    """The scans of a task folder, those of imagesTs too; None where its dataset.json lists none."""
    try:
        content = json.loads((folder / JSON).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    if "channel_names" not in content and isinstance(content.get("training"), list):
        return _decathlon(folder, content, root)
    try:
        dataset = read_raw_dataset(folder.name, Folders(folder.parent, folder.parent, folder.parent))
    except DataError:
        return None
    names = [str(dataset.description.get("channel_names", {}).get(str(n), "")) for n in range(len(dataset.modality))]
    scans = [
        Scan(
            parts=tuple(Part(files=(file,), modality=name) for file, name in zip(case.files, names, strict=True)),
            shown=", ".join(shown(file, root) for file in case.files),
            name=case.case_id,
            subject=case.subject,
        )
        for case in dataset.cases
    ]
    for case, why in dataset.malformed.items():
        sentence = why.replace(str(folder), shown(folder, root))
        scans.append(refused(f"{shown(folder, root)}/{case}", "missing_channel", sentence, name=case))
    return scans


def _decathlon(folder: Path, content: dict[str, Any], root: Path) -> list[Scan]:
    modality = content.get("modality")
    names = [str(modality[key]) for key in sorted(modality, key=str)] if isinstance(modality, dict) else [""]
    scans = []
    for entry in [*content["training"], *_list(content.get("test"))]:
        path = entry.get("image") if isinstance(entry, dict) else entry
        file = listed_file(path, folder, lambda _: root)
        if isinstance(file, Scan):
            scans.append(file)
            continue
        parts = [
            Part(files=(file,), modality=name, volume=index if len(names) > 1 else None)
            for index, name in enumerate(names)
        ]
        scans.append(Scan(parts=tuple(parts), shown=shown(file, root), name=stem(file), subject=stem(file)))
    return scans


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
