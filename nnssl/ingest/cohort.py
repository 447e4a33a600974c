"""What can be judged only beside the other scans: duplicates, other modalities, outliers, orientations."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nnssl.ingest.record import Record

_ENOUGH = 8  # scans from which on one can be said to differ from the others
_FAR = 6.0  # robust standard deviations
_MAD_TO_STD = 1.4826  # for normally distributed values
_SMALL_MM, _SMALL_VOXELS, _THICK_MM = 30.0, 8, 8.0
_BODY_MM, _CELL_MM = 2500.0, 0.05  # longer than any patient; finer than any scanner of patients
Taken = Callable[[], Iterable[tuple[str, Record]]]  # walks over the cases anew; only one is in memory
Cases = Callable[[str], Iterable[tuple[str, Record]]]
Put = Callable[[str, Record], None]
Refuse = Callable[[str, Record, str, str], None]


def family(record: Record) -> str:
    """ "ct" or "other": by what the source says, else by the values; a user speaks of a folder, not of each scan."""
    said = {name.lower() for name in record.modality if name}
    if record.told and record.looks_like == "ct":
        return "ct"
    if said:
        return "ct" if said == {"ct"} else "other"
    return record.looks_like


def channel_names(taken: Taken, given: Sequence[str]) -> dict[str, str]:
    """dataset.json's channel_names: as given, as the sources agree on, "CT" or "image"; mixtures get a neutral name.

    Args:
        taken: the cases.
        given: by the user, one a channel; may be empty.
    """
    if given:
        return {str(channel): name for channel, name in enumerate(given)}
    counts: Counter[int] = Counter()
    families: set[str] = set()
    said: dict[int, set[str]] = {}
    for _, record in taken():
        counts[len(record.channels)] += 1
        families.add(family(record))
        for channel, name in enumerate(record.modality):
            said.setdefault(channel, set()).add(name)
    count = counts.most_common(1)[0][0] if counts else 1
    names = {}
    for channel in range(count):
        own = said.get(channel, set())
        if families == {"ct"}:
            names[str(channel)] = "CT"
        elif len(own) == 1 and "" not in own and families != {"ct", "other"}:
            names[str(channel)] = own.pop()
        else:
            names[str(channel)] = "image" if count == 1 else f"image{channel}"
    return names


def kind_of(names: Sequence[str]) -> str:
    """ "ct" for channels that nnU-Net normalises as CT; else "other"."""
    return "ct" if {name.lower() for name in names} == {"ct"} else "other"


def majority(taken: Taken) -> tuple[int, str] | None:
    """Number of channels and family of most cases; None without cases. Those accepted among others do not count."""
    groups = Counter(
        (len(record.channels), family(record)) for _, record in taken() if "other_modality" not in record.accepted
    )
    counts: Counter[int] = Counter()
    for (channels, _), number in groups.items():
        counts[channels] += number
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    families = Counter({kind: number for (channels, kind), number in groups.items() if channels == most})
    return most, families.most_common(1)[0][0]


def refuse_others(taken: Taken, put: Put, wanted: tuple[int, str], refuse: Refuse) -> None:
    """CT and other scans are not normalised alike: what is not as wanted is refused.

    Args:
        taken: the cases.
        put: keeps a record that was changed.
        wanted: number of channels, and "ct" or "other".
        refuse: takes a key, a record, a reason and a sentence.
    """
    channels, kind = wanted
    for key, record in taken():
        found = family(record)
        if len(record.channels) != channels:
            sentence = (
                f"it has {_channels(len(record.channels))}, the cases of this data set have {_channels(channels)}; "
                f"another data set takes it: its folder with -d OTHER; or leave it out: --exclude and its path"
            )
            refuse(key, record, "channel_count", sentence)
        elif found != kind and record.accepts("other_modality"):
            _accept(key, record, "other_modality", put)
        elif found != kind:
            what = {"ct": "a CT", "other": "no CT"}
            how = "" if any(record.modality) and not record.told else ", going by its values"
            sentence = f"it is {what[found]}{how}, while the others are {'CTs' if kind == 'ct' else 'none'}"
            again = f"-d OTHER --channels {'CT' if found == 'ct' else 'MR'}"
            refuse(key, record, "other_modality", f"{sentence}; a data set of its own takes it: {again}")


def _channels(count: int) -> str:
    return f"{count} channel" if count == 1 else f"{count} channels"


def refuse_unlike_ct(taken: Taken, put: Put, refuse: Refuse) -> None:
    """What is a CT only because the user said so of all scans, and has other values, is refused.

    Args:
        taken: the cases.
        put: keeps a record that was changed.
        refuse: takes a key, a record, a reason and a sentence.
    """
    for key, record in taken():
        if not record.told or kind_of(record.modality) != "ct" or record.looks_like == "ct":
            continue
        if record.accepts("ct_not_hu"):
            _accept(key, record, "ct_not_hu", put)
            continue
        low, middle, high = (f"{record.channels[0][name]:.4g}" for name in ("min", "median", "max"))
        sentence = (
            f"its values go from {low} to {high}, their median is {middle}; in Hounsfield units much would be air "
            f"or fat (below -150) and some bone or contrast, up to a few thousand. --channels CT says that all are "
            f"CTs; nothing says it of this one"
        )
        refuse(key, record, "ct_not_hu", sentence)


def _accept(key: str, record: Record, reason: str, put: Put) -> None:
    if reason not in record.accepted:
        record.accepted = sorted({*record.accepted, reason})
        put(key, record)


def refuse_duplicates(groups: Iterable[Sequence[tuple[str, Record]]], put: Put, refuse: Refuse) -> None:
    """Scans with the voxels of an earlier one; `groups` holds cases with the same voxels, the earliest first."""
    for (_, first), *others in groups:
        for key, record in others:
            if record.accepts("duplicate"):
                record.suspicions["duplicate"] = f"it has the voxels of {first.case}"
                record.accepted = sorted({*record.accepted, "duplicate"})
                put(key, record)
            else:
                refuse(key, record, "duplicate", f"it has the voxels of {first.case} ({first.source})")


def refuse_copies(kept_out: Iterable[Record], cases: Cases, put: Put, refuse: Refuse) -> None:
    """Scans with the voxels, in a channel, of what a list keeps out of training.

    Args:
        kept_out: records of what lists keep out.
        cases: those that have a channel of some voxels, by their hash.
        put: keeps a record that was changed.
        refuse: takes a key, a record, a reason and a sentence.
    """
    for held in kept_out:
        use = "for testing or validation" if held.reason == "held_out" else "for a use that is not known"
        for key, record in itertools.chain.from_iterable(map(cases, {*held.content.split(",")})):
            sentence = f"it has the voxels of {held.source}, which a list has {use}"
            if not record.accepts("duplicate"):
                refuse(key, record, "duplicate", sentence)
            else:
                record.suspicions["duplicate"] = sentence
                _accept(key, record, "duplicate", put)


def suspect(taken: Taken, put: Put) -> None:
    """Note what is odd and stops nothing: small, thick slices, outliers, another orientation than most.

    The first look takes a few numbers of every case, the second judges by them.
    """
    values = [array("d") for _ in _MEASURES]
    lying: Counter[str] = Counter()
    for _, record in taken():
        for (_, _, value), numbers in zip(_MEASURES, values, strict=True):
            numbers.append(value(record.channels[0]))
        lying[record.channels[0]["orientation"]] += 1
    enough = lying.total() >= _ENOUGH
    usual = lying.most_common(1)[0] if enough else ("", 0)
    ranges = [_range(numbers) for numbers in values] if enough else []
    for key, record in taken():
        before = dict(record.suspicions)
        record.suspicions = {name: before[name] for name in before if name in _LASTING}
        for channel in record.channels:
            _alone(record, channel)
        found = record.channels[0]["orientation"]
        if found != usual[0] and usual[1] > 0.8 * lying.total():
            record.suspicions["orientation"] = f"its axes run {found}, those of {usual[1]} others {usual[0]}"
        for (name, unit, value), (middle, far) in zip(_MEASURES, ranges, strict=False):
            number = value(record.channels[0])
            if abs(number - middle) > far:
                what = f"{name} {number:.4g} {unit}".rstrip()
                record.suspicions["outlier"] = f"{what}, the cohort's median is {middle:.4g}"
        if record.suspicions != before:
            put(key, record)


_LASTING = ("gap", "duplicate", "elsewhere")
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


def _range(numbers: array[float]) -> tuple[float, float]:
    """The median of a cohort, and how far from it is too far."""
    values = np.frombuffer(numbers, np.float64)
    middle = float(np.median(values))
    spread = _MAD_TO_STD * float(np.median(np.abs(values - middle)))
    least = 0.05 * abs(middle)  # a cohort of one scanner has no spread; a few per cent are no outlier there
    return middle, _FAR * max(spread, least, 1e-9)
