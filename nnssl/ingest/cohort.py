"""What can be judged only beside the other scans: duplicates, other modalities, outliers, orientations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from nnssl.ingest.ledger import Record

_ENOUGH = 8  # scans from which on one can be said to differ from the others
_FAR = 6.0  # robust standard deviations
_MAD_TO_STD = 1.4826  # for normally distributed values
_SMALL_MM, _SMALL_VOXELS, _THICK_MM = 30.0, 8, 8.0
_BODY_MM, _CELL_MM = 2500.0, 0.05  # longer than any patient; finer than any scanner of patients
Refuse = Callable[[Record, str, str], None]


def family(record: Record) -> str:
    """ "ct" or "other": by what the source says, else by the values."""
    said = {name.lower() for name in record.modality if name}
    if said:
        return "ct" if said == {"ct"} else "other"
    return record.looks_like


def channel_names(records: Sequence[Record], given: Sequence[str]) -> dict[str, str]:
    """dataset.json's channel_names: as given, as the sources agree on, "CT" or "image"; mixtures get a neutral name.

    Args:
        records: taken scans.
        given: by the user, one a channel; may be empty.
    """
    count = Counter(len(record.channels) for record in records).most_common(1)[0][0] if records else 1
    if given:
        return {str(channel): name for channel, name in enumerate(given)}
    families = {family(record) for record in records}
    names = {}
    for channel in range(count):
        said = {record.modality[channel] for record in records if len(record.modality) > channel}
        if families == {"ct"}:
            names[str(channel)] = "CT"
        elif len(said) == 1 and "" not in said and families != {"ct", "other"}:
            names[str(channel)] = said.pop()
        else:
            names[str(channel)] = "image" if count == 1 else f"image{channel}"
    return names


def refuse_minority(records: Sequence[Record], fixed: str, accepted: Collection[str], refuse: Refuse) -> None:
    """CT and other scans are not normalised alike: the smaller group is refused, and so are other channel counts.

    Args:
        records: taken scans.
        fixed: "ct" or "other" where an earlier run or the user decided; else empty.
        accepted: names of reasons.
        refuse: takes a record, a reason and a sentence.
    """
    counts = Counter(len(record.channels) for record in records)
    for record in records:
        most = counts.most_common(1)[0][0]
        if len(record.channels) != most:
            sentence = f"it has {len(record.channels)} channels, most of the others have {most}"
            refuse(record, "missing_channel", sentence)
    left = [record for record in records if record.status == "taken"]
    families = Counter(family(record) for record in left)
    wanted = fixed or (families.most_common(1)[0][0] if families else "")
    for record in left:
        found = family(record)
        if found == wanted:
            continue
        if "other_modality" in accepted:
            record.accepted = sorted({*record.accepted, "other_modality"})
            continue
        what = {"ct": "a CT", "other": "no CT"}
        how = "" if any(record.modality) else ", going by its values"
        sentence = f"it is {what[found]}{how}, while the others are {'CTs' if wanted == 'ct' else 'none'}"
        refuse(record, "other_modality", f"{sentence}; put it into a data set of its own")


def refuse_duplicates(records: Iterable[Record], accepted: Collection[str], refuse: Refuse) -> None:
    """Scans with the voxels of an earlier one."""
    first: dict[str, Record] = {}
    for record in records:
        if not record.content or record.status != "taken":
            continue
        other = first.setdefault(record.content, record)
        if other is record:
            continue
        if "duplicate" in accepted or "duplicate" in record.accepted:
            record.accepted = sorted({*record.accepted, "duplicate"})
            record.suspicions["duplicate"] = f"it has the voxels of {other.case}"
        else:
            refuse(record, "duplicate", f"it has the voxels of {other.case} ({other.source})")


def suspect(records: Sequence[Record]) -> None:
    """Note what is odd and stops nothing: small, thick slices, outliers, another orientation than most."""
    for record in records:
        record.suspicions = {name: record.suspicions[name] for name in record.suspicions if name in _LASTING}
        for channel in record.channels:
            _alone(record, channel)
    if len(records) < _ENOUGH:
        return
    lying = Counter(record.channels[0]["orientation"] for record in records if record.channels)
    usual, count = lying.most_common(1)[0]
    for record in records:
        found = record.channels[0]["orientation"] if record.channels else usual
        if found != usual and count > 0.8 * len(records):
            record.suspicions["orientation"] = f"its axes run {found}, those of {count} others {usual}"
    for name, unit, value in _MEASURES:
        _outliers(records, name, unit, value)


_LASTING = ("duplicate", "elsewhere")
_MEASURES: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
    ("voxel volume", "mm3", lambda channel: float(np.prod(channel["spacing_mm"]))),
    ("field of view", "l", lambda channel: float(np.prod(channel["field_of_view_mm"])) / 1e6),
    ("99th percentile", "", lambda channel: float(channel["percentile_99"])),
    ("median intensity", "", lambda channel: float(channel["median"])),
)


def _alone(record: Record, channel: dict[str, Any]) -> None:
    if min(channel["field_of_view_mm"]) < _SMALL_MM or min(channel["shape"]) < _SMALL_VOXELS:
        voxels, sides = ("x".join(f"{each:.4g}" for each in channel[key]) for key in ("shape", "field_of_view_mm"))
        record.suspicions["small"] = f"{voxels} voxels, {sides} mm"
    if max(channel["field_of_view_mm"]) > _BODY_MM or min(channel["spacing_mm"]) < _CELL_MM:
        sides = "x".join(f"{each:.4g}" for each in channel["spacing_mm"])
        record.suspicions["units"] = f"voxels of {sides} mm: are its lengths in millimetres?"
    if max(channel["spacing_mm"]) > _THICK_MM:
        record.suspicions["thick_slices"] = f"voxels of {max(channel['spacing_mm']):.3g} mm"


def _outliers(records: Sequence[Record], name: str, unit: str, value: Callable[[dict[str, Any]], float]) -> None:
    values = np.array([value(record.channels[0]) for record in records if record.channels])
    middle = float(np.median(values))
    spread = _MAD_TO_STD * float(np.median(np.abs(values - middle)))
    least = 0.05 * abs(middle)  # a cohort of one scanner has no spread; a few per cent are no outlier there
    for record in records:
        if not record.channels:
            continue
        found = value(record.channels[0])
        if abs(found - middle) > _FAR * max(spread, least, 1e-9):
            record.suspicions["outlier"] = f"{name} {found:.4g} {unit}, the cohort's median is {middle:.4g}".replace(
                " ,", ","
            )
