"""A real nnU-Net or Medical Segmentation Decathlon task folder as the two data sets of the demonstration.

Both kinds have `imagesTr` and `labelsTr`; nnU-Net's have a file per channel (`CASE_0000.nii.gz`), the Decathlon's one
file per case (4D for several channels). Unlabelled scans are those of `imagesTr` without a label, of `imagesUn` and
`imagesTs`, and labelled ones that are not needed. No subject is on two sides: see `Parts`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from nnssl.demo.cohort import PRETRAIN, TARGET, TEST_SUBJECTS, TRAINING_SUBJECTS, Cohort, write_dataset_json
from nnssl.errors import DataError

ENDING = ".nii.gz"
_CHANNEL = re.compile(r"_(\d{4})$")
_AIR_HU = -500  # an image with values below this is taken for CT where nothing names its channels


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Cases by their use. A subject is in one of them only.

    Attributes:
        unlabelled: for pretraining.
        training: labelled, to fine-tune on.
        test: labelled, to measure on.
    """

    unlabelled: tuple[str, ...]
    training: tuple[str, ...]
    test: tuple[str, ...]


def import_task(source: Path, raw: Path, *, say: Callable[[str], None] = lambda sentence: None) -> Cohort:
    """Write the two data sets of a task under `raw`.

    Args:
        source: the task's folder; it is only read.
        raw: nnU-Net's raw folder.
        say: hears what had to be guessed.

    Raises:
        DataError: no labelled images, or too few for 5 to train on and 6 to test.
    """
    images = {**_files(source / "imagesTs"), **_files(source / "imagesUn"), **_files(source / "imagesTr")}
    labels = {case: files[0] for case, files in _files(source / "labelsTr").items() if case in images}
    if not labels:
        raise DataError(
            f"{source} needs imagesTr and labelsTr with {ENDING} files of the same names; found no such pair."
        )
    about, splits = _json(source / "dataset.json"), _json(source / "splits.json")
    parts = split_cases(list(images), list(labels), splits, about.get("subjects", {}))
    names = _labels(about, splits, labels, say)
    channels = _channels(about, images[parts.training[0]], say)
    task = re.sub(r"^(Dataset\d+|Task\d+)_", "", source.resolve().name)
    pretraining, target = f"Dataset{PRETRAIN}_{task}Unlabelled", f"Dataset{TARGET}_{task}"
    for case in parts.unlabelled:
        _copy(images[case], case, raw / pretraining / "imagesTr")
    for case in (*parts.training, *parts.test):
        _copy(images[case], case, raw / target / "imagesTr")
        _copy_label(labels[case], raw / target / "labelsTr" / (case + ENDING))
    subject = _subject_rule(splits, about.get("subjects", {}))
    write_dataset_json(
        raw / pretraining, channels=channels, labels={"background": 0}, cases=len(parts.unlabelled),
        subjects={case: subject(case) for case in parts.unlabelled if subject(case) != case},
    )  # fmt: skip
    write_dataset_json(raw / target, channels=channels, labels=names, cases=len(parts.training) + len(parts.test))
    return Cohort(
        source=f"{source.resolve().name}: {len(images)} scans, {len(labels)} of them labelled",
        pretraining=pretraining,
        target=target,
        training=parts.training,
        test=parts.test,
        labels=names,
        unlabelled=len(parts.unlabelled),
    )


def split_cases(
    images: Sequence[str], labelled: Sequence[str], splits: Mapping[str, Any], subjects: Mapping[str, str]
) -> Parts:
    """Divide cases by subject, the same way every time.

    `splits` may name `pretrain_unlabelled` (or `unlabelled`), `fine_tune_labelled` (or `labelled`), `few_shot_5` and
    `subject_of_case`; what it names is kept, the rest is drawn by subject. At most 16 test subjects are used, and half
    of what is left after training where there are no other scans to pretrain on; labelled subjects beyond them are
    pretrained on, without their labels.

    Args:
        images: all cases.
        labelled: those with labels.
        splits: content of `splits.json`, may be empty.
        subjects: {case: subject} of `dataset.json`; a case in neither is a subject of its own.

    Raises:
        DataError: fewer than 5 training and 6 test subjects, or a split that puts one subject on two sides.
    """
    subject = _subject_rule(splits, subjects)
    allowed = set(splits.get("fine_tune_labelled", splits.get("labelled", labelled)))
    usable = sorted(case for case in labelled if case in allowed)
    named = [case for case in splits.get("few_shot_5", []) if case in usable]
    order = sorted({subject(case) for case in usable} - {subject(case) for case in named})
    np.random.default_rng(0).shuffle(order)
    groups = {name: [case for case in usable if subject(case) == name] for name in order}
    fresh = [groups.pop(name)[0] for name in order[: max(0, TRAINING_SUBJECTS - len(named))]]
    training = [*named[:TRAINING_SUBJECTS], *fresh]
    others = {subject(case) for case in images} - {subject(case) for case in usable}
    test_subjects = list(groups)[: TEST_SUBJECTS if others else min(TEST_SUBJECTS, max(6, len(groups) // 2))]
    test = [groups[name][0] for name in test_subjects]  # one each: intervals over cases are then over subjects
    held = {*test_subjects, *(subject(case) for case in training)}
    wanted = splits.get("pretrain_unlabelled", splits.get("unlabelled"))
    unlabelled = [case for case in images if (wanted is None or case in set(wanted)) and subject(case) not in held]
    both = sorted(set(wanted or []) & set(images) - set(unlabelled))
    if both:
        raise DataError(f"splits.json pretrains on subjects that are fine-tuned or tested on: {', '.join(both[:5])}.")
    if len(training) < TRAINING_SUBJECTS or len(test_subjects) < 6 or not unlabelled:
        raise DataError(
            f"The demonstration needs {TRAINING_SUBJECTS} labelled subjects to train on, 6 to test on and others to "
            f"pretrain on; found {len(training)}, {len(test_subjects)} and {len(unlabelled)} unlabelled cases."
        )
    return Parts(unlabelled=tuple(sorted(unlabelled)), training=tuple(training), test=tuple(sorted(test)))


def _files(folder: Path) -> dict[str, list[Path]]:
    """{case: its channel files in order}; the Decathlon's hidden `._` files are no images."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []:
        if not path.name.startswith("."):
            found.setdefault(_CHANNEL.sub("", path.name[: -len(ENDING)]), []).append(path)
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} must be JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(content).__name__}.")
    return content


def _subject_rule(splits: Mapping[str, Any], subjects: Mapping[str, str]) -> Callable[[str], str]:
    """Case to subject. `subject_of_case` is a mapping, or begins with "(id+1)//2": ids 2k-1 and 2k are one subject, as
    the two sides of a scan in the Decathlon's hippocampus task.

    Raises:
        DataError: it is something else.
    """
    rule = splits.get("subject_of_case", {})
    if isinstance(rule, Mapping):
        known = {**subjects, **rule}
        return lambda case: str(known.get(case, case))
    if not str(rule).replace(" ", "").startswith("(id+1)//2"):
        raise DataError(f"subject_of_case in splits.json must map cases to subjects, or say (id+1)//2; it is {rule!r}.")

    def paired(case: str) -> str:
        """The subject of a case whose name ends in its id.

        Raises:
            DataError: it does not.
        """
        number = re.search(r"(\d+)$", case)
        if number is None:
            raise DataError(
                f"splits.json counts subjects as (id+1)//2, but the case {case!r} does not end in a number."
            )
        return f"{case[: number.start()]}subject_{(int(number[1]) + 1) // 2:03d}"

    return paired


def _labels(
    about: Mapping[str, Any], splits: Mapping[str, Any], labels: Mapping[str, Path], say: Callable[[str], None]
) -> dict[str, int]:
    """{name: value}; the Decathlon's dataset.json has {"value": name}."""
    given = about.get("labels") or splits.get("labels")
    if given:
        keys_are_values = all(str(key).isdigit() for key in given)
        return {str(v): int(k) for k, v in given.items()} if keys_are_values else {k: int(v) for k, v in given.items()}
    values: set[int] = set()
    for path in labels.values():
        values |= {int(v) for v in np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))}
    say(f"Nothing names the labels; the label files hold {sorted(values)}.")
    return {"background": 0, **{f"label_{value}": value for value in sorted(values - {0})}}


def _channels(about: Mapping[str, Any], files: Sequence[Path], say: Callable[[str], None]) -> tuple[str, ...]:
    given = about.get("channel_names") or about.get("modality")
    if given:
        return tuple(str(given[key]) for key in sorted(given, key=int))
    image = SimpleITK.ReadImage(str(files[0]))
    count = len(files) if image.GetDimension() == 3 else image.GetSize()[3]
    is_ct = float(SimpleITK.GetArrayFromImage(image).min()) < _AIR_HU
    kind = "CT" if is_ct else "MR"
    say(f"Nothing names the channels; the values of {files[0].name} look like {kind}.")
    return (kind,) * count if is_ct else tuple(f"{kind}{index}" for index in range(count))


def _copy(files: Sequence[Path], case: str, folder: Path) -> None:
    """One file per channel."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(files) == 1:
        image = SimpleITK.ReadImage(str(files[0]))
        if image.GetDimension() == 4:
            for channel in range(image.GetSize()[3]):
                SimpleITK.WriteImage(image[..., channel], str(folder / f"{case}_{channel:04d}{ENDING}"))
            return
    for channel, path in enumerate(files):
        shutil.copyfile(path, folder / f"{case}_{channel:04d}{ENDING}")


def _copy_label(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
