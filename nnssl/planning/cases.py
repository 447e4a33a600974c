"""What a raw data set holds: nnU-Net's folder layout, labels not needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.errors import DataError
from nnssl.paths import Folders

ACCEPTED = "nnssl_accepted"  # key of dataset.json: {case: [names of reasons]}, written by nnssl_ingest --accept
_PLAIN = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]+")
_LONGEST = 200  # of a case's name; file systems take 255 with what is put behind it
_EXAMPLE = '{"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 100, "file_ending": ".nii.gz"}'


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """The files of one case, one per channel, in order.

    Attributes:
        case_id: its name.
        files: one a channel.
        subject: who was scanned.
        accepted: names of reasons (planning/refusal.py) that do not speak against it.
    """

    case_id: str
    files: tuple[Path, ...]
    subject: str
    accepted: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A folder of nnUNet_raw.

    Attributes:
        name: "Dataset745_Thorax".
        folder: where it lies.
        description: dataset.json, with `labels` and `numTraining` filled in where they were missing.
        modality: per channel, its name in lower case.
        cases: sorted by name, those whose channels are all there.
        malformed: {case or file name: why it cannot be used}.
        notes: what looks wrong but stops nothing, in sentences.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    modality: tuple[str, ...]
    cases: tuple[RawFiles, ...]
    malformed: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_raw_dataset(name: str, where: Folders, *, accepted: Collection[str] = ()) -> RawDataset:
    """List the cases of a data set: imagesTr, and imagesTs if present; or dataset.json's own `dataset` list.

    Args:
        name: "Dataset745_Thorax".
        where: nnU-Net's folders.
        accepted: names of reasons that speak against no case, besides those that dataset.json accepts for some.

    Raises:
        DataError: folder, dataset.json or images are missing, or dataset.json lacks something.
    """
    folder = where.raw / name
    description = _description(folder)
    channels = description.get("channel_names", description.get("modality", {}))
    modality = tuple(str(channels[key]).lower() for key in sorted(channels, key=int))
    found = _listed(folder, description) if "dataset" in description else _scanned(folder, description["file_ending"])
    subjects = description.get("subjects", {})
    cases, malformed = [], {}
    for case_id in sorted(found):
        files = found[case_id]
        if (why := _bad_name(folder, case_id, found)) is not None:
            malformed[case_id[:_LONGEST]] = why
        elif len(files) == len(modality) and None not in files:
            paths = tuple(file for file in files if file is not None)
            cases.append(
                RawFiles(
                    case_id=case_id,
                    files=paths,
                    subject=str(subjects.get(case_id, case_id)),
                    accepted=frozenset(accepted) | frozenset(description.get(ACCEPTED, {}).get(case_id, ())),
                )
            )
        else:
            malformed[case_id] = _wrong_channels(folder, case_id, files, description)
    if not cases and not malformed:
        raise DataError(
            f"{folder / 'imagesTr'} holds no images called CASE_0000{description['file_ending']} (file_ending of "
            f"dataset.json; 0000 is the channel). Put the scans there, or correct file_ending."
        )
    filled = {"labels": {"background": 0}, "numTraining": len(cases) + len(malformed), **description}
    return RawDataset(
        name=name,
        folder=folder,
        description=filled,
        modality=modality,
        cases=tuple(cases),
        malformed=malformed,
        notes=_unknown_subjects(folder, subjects, found),
    )


def _bad_name(folder: Path, case_id: str, found: Collection[str]) -> str | None:
    """Why no case may be called so: files are named after it, and names in dataset.json may lead anywhere."""
    if not _PLAIN.fullmatch(case_id) or len(case_id) > _LONGEST:
        return (
            f"Case {case_id[:_LONGEST]!r} in {folder / 'dataset.json'} cannot name a file: no slashes, no control "
            f"characters, no dot in front, at most {_LONGEST} characters. Rename it."
        )
    if (other := case_id.removesuffix("_raw")) != case_id and other in found:
        return f"Case {case_id} in {folder} is called as the raw values of case {other} will be. Rename it."
    return None


def _description(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    if not folder.is_dir():
        raise DataError(
            f"The raw data set {folder} does not exist. Make it, with imagesTr and dataset.json: {_EXAMPLE}"
        )
    if not file.is_file():
        raise DataError(f"{file} is missing. Write one, for example: {_EXAMPLE}")
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{file} is not readable JSON ({error}). Correct it; an example: {_EXAMPLE}") from error
    channels = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
    if not isinstance(channels, dict) or sorted(channels) != sorted(map(str, range(len(channels)))) or not channels:
        raise DataError(f'{file} needs "channel_names" that count from "0". An example: {_EXAMPLE}')
    if not all(isinstance(name, str) and name for name in channels.values()):
        raise DataError(f'"channel_names" in {file} must be texts; they are {channels}. An example: {_EXAMPLE}')
    if not isinstance(content.get("labels", {}), dict):
        raise DataError(f'"labels" in {file} must map names to numbers, not {content["labels"]!r}. Example: {_EXAMPLE}')
    if not isinstance(content.get("numTraining", 1), int) or content.get("numTraining", 1) < 1:
        raise DataError(
            f'"numTraining" in {file} must be a whole number over 0, not {content["numTraining"]!r}. Correct it or '
            f"leave it out."
        )
    if not isinstance(content.get("file_ending"), str):
        raise DataError(f'{file} needs "file_ending" (".nii.gz"). An example: {_EXAMPLE}')
    subjects = content.get("subjects", {})
    if not isinstance(subjects, dict) or not all(isinstance(subject, (str, int)) for subject in subjects.values()):
        raise DataError(f'"subjects" in {file} must map case names to subjects: {{"case_01": "anna", ...}}.')
    accepted = content.get(ACCEPTED, {})
    if not isinstance(accepted, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in accepted.values()
    ):
        raise DataError(
            f'"{ACCEPTED}" in {file} must map case names to lists of reasons: {{"case_01": ["label_map"]}}.'
        )
    return content


def _unknown_subjects(folder: Path, subjects: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """A misspelt case would be taken for a subject of its own, and leak into the held-out cases."""
    absent = sorted({*subjects} - {*found})
    if not absent:
        return ()
    more = ", ..." if len(absent) > 3 else ""
    return (
        f'"subjects" in {folder / "dataset.json"} names {len(absent)} cases that are not there '
        f"({', '.join(absent[:3])}{more}); cases that it does not name count as a subject each. Check the spelling.",
    )


def _scanned(folder: Path, ending: str) -> dict[str, list[Path | None]]:
    """{case: files by channel, None where one is missing}; files without a channel number are cases of no channel."""
    if not (folder / "imagesTr").is_dir():
        raise DataError(
            f"{folder / 'imagesTr'} is missing. Put the scans there as CASE_0000{ending} (0000: the channel)."
        )
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    found: dict[str, dict[int, Path]] = {}
    for images in (folder / "imagesTr", folder / "imagesTs"):
        for file in sorted(images.iterdir()) if images.is_dir() else ():
            if file.name.startswith(".") or not file.name.endswith(ending):
                continue
            match = pattern.fullmatch(file.name)
            if match is None:
                found[file.name] = {}
                continue
            channels = found.setdefault(match.group(1), {})
            if int(match.group(2)) in channels:
                raise DataError(
                    f"Case {match.group(1)} lies in imagesTr and in imagesTs of {folder}. Rename or remove one of them."
                )
            channels[int(match.group(2))] = file
    return {
        case: [channels.get(channel) for channel in range(max(channels, default=-1) + 1)]
        for case, channels in found.items()
    }


def _listed(folder: Path, description: Mapping[str, Any]) -> dict[str, list[Path | None]]:
    """nnU-Net's explicit list: {"dataset": {case: {"images": [..], "label": ..}}}, paths relative to the data set."""
    try:
        return {
            str(case): [folder / os.path.expandvars(image) for image in _list(entry["images"])]
            for case, entry in description["dataset"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'"dataset" in {folder / "dataset.json"} must map cases to {{"images": [a path per channel]}} ({error!r}).'
        ) from error


def _list(images: Any) -> list[Any]:
    if not isinstance(images, list):
        raise TypeError(f"images is {images!r}, which is no list")
    return images


def _wrong_channels(folder: Path, case_id: str, files: list[Path | None], description: Mapping[str, Any]) -> str:
    ending = description["file_ending"]
    if not files:
        return f"{folder}: {case_id} has no channel number in its name. Rename it to CASE_0000{ending}."
    wanted = len(description.get("channel_names", description.get("modality", {})))
    have = [f"{channel:04d}" for channel, file in enumerate(files) if file is not None]
    return (
        f"Case {case_id} in {folder} needs {wanted} channel{'s' if wanted > 1 else ''} "
        f"({', '.join(f'{channel:04d}' for channel in range(wanted))}, channel_names of dataset.json), found "
        f"{', '.join(have)}."
    )
