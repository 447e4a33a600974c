"""Why a scan is refused: every reason has a name, and the name says what `--accept NAME` would do with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nnssl.errors import DataError, UsageError


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        name: as `--accept` takes it.
        means: what is wrong, in a few words.
        accepted: what happens to a case that is accepted all the same; empty where there is nothing to accept.
    """

    name: str
    means: str
    accepted: str = ""


_KEPT = "kept as it is"
REASONS = {
    reason.name: reason
    for reason in (
        Reason("missing_file", "a list names a file that is not there"),
        Reason("vanished", "a case was a link to a file that is gone"),
        Reason("unknown_format", "a list names a file that no reader knows"),
        Reason("outside_source", "a list names a file outside its own folder"),
        Reason("bad_list", "a list of scans that cannot be understood"),
        Reason("unreadable", "no reader can open it"),
        Reason("reader_crashed", "its reader died while it read it", "it is read once more"),
        Reason("reader_hung", "its reader gave no answer in a quarter of an hour", "it is waited for without end"),
        Reason("truncated", "the file ends early"),
        Reason("damaged", "the header or a checksum is wrong"),
        Reason("single_slice", "one slice, not a volume"),
        Reason("constant", "every voxel has the same value"),
        Reason("missing_channel", "a channel of the case is not there"),
        Reason("channel_count", "it has more or fewer channels than the cases of the data set"),
        Reason("channels_differ", "the channels of the case differ in size or place"),
        Reason("ambiguous_channel", "several scans fit one channel of the case", "the first by name is taken"),
        Reason("no_spacing", "slices without a known voxel size"),
        Reason("sizes_differ", "slices of several sizes in one stack"),
        Reason("not_an_image", "a DICOM object without an image (report, segmentation, dose, ...)"),
        Reason("four_dimensional", "more than one volume in a file", "its first volume is taken"),
        Reason("complex_values", "complex numbers", "the magnitude is taken"),
        Reason("colour", "several numbers a voxel", "the mean over the numbers is taken"),
        Reason("not_finite", "NaN or infinite voxels", "they become the lowest finite value"),
        Reason("precision", "32-bit numbers cannot tell its values apart", "the lowest value is subtracted"),
        Reason("no_orientation", "the header does not say how it lies", "its axes are taken for those of its reader"),
        Reason("orientation_conflict", "the header says two things about how it lies", "nibabel's reading is written"),
        Reason("sheared", "axes that are not at right angles (gantry tilt)", "resampled to a rectangular grid"),
        Reason("localizer", "a scout or localizer", _KEPT),
        Reason("multi_frame", "a multi-frame DICOM file", "read as GDCM understands it"),
        Reason("duplicate_slices", "several slices in one place", "the first of each place is taken"),
        Reason("incomplete_series", "a file beside its slices may be a slice that is lost", "the others are taken"),
        Reason("uneven_slices", "distances between slices vary", "interpolated to the median distance"),
        Reason("near_empty", "almost every voxel has the same value", _KEPT),
        Reason("ct_not_hu", "a CT whose values cannot be Hounsfield units", _KEPT),
        Reason("label_map", "labels, not an image", _KEPT),
        Reason("duplicate", "the same voxels as another case, or as a scan that is held out", _KEPT),
        Reason("other_modality", "CT among other scans, or the other way round", "all are normalised image by image"),
        Reason("excluded", "the command leaves it out (--exclude)"),
        Reason("held_out", "listed for testing or validation", _KEPT),
        Reason("unknown_split", "listed for something that is known as neither training nor testing", _KEPT),
    )
}


class Refused(DataError):
    """A scan that cannot be used, or should not without a word from the user.

    Attributes:
        reason: its name in `REASONS`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = REASONS[reason].name


def checked_reasons(names: Iterable[str]) -> frozenset[str]:
    """The names given to `--accept`.

    Raises:
        UsageError: a name that is none, or one of a reason that leaves nothing to accept.
    """
    wanted = frozenset(names)
    possible = ", ".join(name for name, reason in REASONS.items() if reason.accepted)
    for name in sorted(wanted):
        if name not in REASONS:
            raise UsageError(f"--accept takes names of reasons, not {name!r}. Those that can be accepted: {possible}.")
        if not REASONS[name].accepted:
            raise UsageError(
                f"--accept {name} is not possible: {REASONS[name].means}, nothing is left to use. Those that can be "
                f"accepted: {possible}."
            )
    return wanted
