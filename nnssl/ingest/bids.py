"""BIDS trees: sub-*/[ses-*/]KIND/..._SUFFIX.nii.gz; derivatives and source data are left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnssl.ingest.names import label_by_name, shown, stem
from nnssl.ingest.scan import Part, Scan

_ENTITY = re.compile(r"(?:^|_)(sub|ses)-([A-Za-z0-9]+)")
DESCRIPTION = "dataset_description.json"
OUTSIDE = frozenset({"derivatives", "sourcedata", "code", "stimuli", "phenotype"})


def is_bids(folder: Path) -> bool:
    """Whether a folder is the root of a BIDS tree."""
    if (folder / DESCRIPTION).is_file():
        return any(folder.glob("sub-*/"))
    return any(each.is_dir() for each in folder.glob("sub-*/anat")) or any(
        each.is_dir() for each in folder.glob("sub-*/ses-*/anat")
    )


def bids_scans(files: Sequence[Path], root: Path) -> Iterator[Scan]:
    """Scans of the image files of a subject in a BIDS tree; the suffix is the modality.

    Args:
        files: images anywhere below sub-*.
        root: the source.
    """
    for file in sorted(files):
        name = stem(file)
        entities = dict(_ENTITY.findall(name))
        path = dict(_ENTITY.findall(file.parent.as_posix().replace("/", "_")))
        yield Scan(
            parts=(Part(files=(file,), modality=name.rpartition("_")[2]),),
            shown=shown(file, root),
            name=name,
            subject=entities.get("sub") or path.get("sub") or name,
            session=entities.get("ses") or path.get("ses") or "",
            refused=label_by_name(file),
        )
