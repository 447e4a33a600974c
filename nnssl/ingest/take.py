"""One scan from its files to the data set: read, judge, write; what became of it is a record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnssl.ingest.describe import content_hash, describe, looks_like_ct, picture
from nnssl.ingest.identity import without
from nnssl.ingest.read import Volume, read_part
from nnssl.ingest.record import Record, printable
from nnssl.ingest.scan import Scan
from nnssl.ingest.splits import REASONS as KEPT_OUT
from nnssl.ingest.write import put_case
from nnssl.planning.checks import findings
from nnssl.planning.reading import Channel, check_same_geometry, last_line
from nnssl.planning.refusal import Refused

# what readers raise on damaged files besides their own errors; anything else is a fault of ours and shows itself
_READER_FAULTS = (OSError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A scan to be taken in.

    Attributes:
        key: of its record.
        scan: as found.
        record: as far as it is known before reading.
    """

    key: str
    scan: Scan
    record: Record

    @property
    def case_id(self) -> str:
        """Its name in the data set."""
        return self.record.case

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files."""
        return self.scan.files


@dataclass(frozen=True, kw_only=True)
class Taker:
    """Takes scans in.

    Attributes:
        images: imagesTr; None writes nothing.
        pictures: where the pictures go; None makes none.
        copy: never link.
    """

    images: Path | None
    pictures: Path | None
    copy: bool

    def take(self, task: Task) -> Record:
        """Read, judge and write one scan; never raises for what is wrong with it."""
        record = replace(task.record, status="refused", accepted=[], notes=list(task.scan.notes))
        try:
            self._take(task, record)
        except Refused as why:
            record.reason, record.sentence = why.reason, self._in_words(str(why), task.scan)
        except _READER_FAULTS as error:
            record.reason = "unreadable"
            said = f"its reader failed ({type(error).__name__}: {last_line(error)})"
            record.sentence = self._in_words(said, task.scan)
        return record

    def _take(self, task: Task, record: Record) -> None:
        scan = task.scan
        if scan.refused is not None:
            if scan.refused.reason not in task.record.allowed or not scan.parts:
                record.content = _content(task) if scan.refused.reason in KEPT_OUT else ""
                raise Refused(scan.refused.reason, scan.refused.sentence)
            record.accepted.append(scan.refused.reason)
        volumes = [read_part(part, task.record.allowed) for part in scan.parts]
        record.notes += [self._in_words(note, scan) for volume in volumes for note in volume.notes]
        record.channels = [describe(volume.voxels, volume.to_world) for volume in volumes]
        record.looks_like = "ct" if all(looks_like_ct(volume.voxels) for volume in volumes) else "other"
        record.content = ",".join(content_hash(volume.voxels) for volume in volumes)
        if self.pictures is not None:
            self._draw(task, record, volumes[0])
        _check_one_place(scan, volumes)
        for volume, modality in zip(volumes, record.modality, strict=True):
            # what the user says of a whole folder is judged beside the other scans
            for finding in findings(volume.voxels, "" if record.told else modality):
                if finding.reason not in task.record.allowed:
                    raise Refused(finding.reason, finding.sentence)
                record.accepted.append(finding.reason)
        record.accepted = sorted({*record.accepted})
        if self.images is not None:
            files = [part.files[0] for part in scan.parts]
            record.linked = put_case(self.images, record.case, files, volumes, copy=self.copy)
        record.status, record.reason, record.sentence = "taken", "", ""

    def _draw(self, task: Task, record: Record, volume: Volume) -> None:
        if self.pictures is not None:
            record.picture = f"{task.key[:16]}.jpg"
            (self.pictures / record.picture).write_bytes(picture(volume.voxels, volume.to_world))

    def _in_words(self, text: str, scan: Scan) -> str:
        """A message without paths of the machine and without what could name the patient."""
        for file in sorted({*scan.files}, key=lambda each: -len(str(each))):
            text = text.replace(str(file), file.name)
        for folder in sorted({file.parent for file in scan.files}, key=lambda each: -len(str(each))):
            text = text.replace(str(folder), folder.name)
        text = printable(without(text, scan.secrets))
        name = scan.files[0].name if len(scan.files) == 1 else ""
        return f"it{text[len(name) :]}" if name and text.startswith(f"{name} ") else text


def _content(task: Task) -> str:
    """Hashes of the voxels of a scan that a list keeps out, to know its copies by; empty if it cannot be read."""
    try:
        volumes = (read_part(part, task.record.allowed) for part in task.scan.parts)
        return ",".join(content_hash(volume.voxels) for volume in volumes)
    except (Refused, *_READER_FAULTS):
        return ""


def _check_one_place(scan: Scan, volumes: list[Volume]) -> None:
    files = [part.files[0] for part in scan.parts]
    channels = []
    for volume in volumes:
        d, h, w = (float((volume.to_world[:3, axis] ** 2).sum() ** 0.5) for axis in range(3))
        channels.append(Channel(volume.voxels, (d, h, w), volume.to_world, b""))
    for file, channel in zip(files, channels, strict=True):
        check_same_geometry(files[0], channels[0], file, channel)
