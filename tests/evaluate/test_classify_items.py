"""What may be classified, and every mistake in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.classify.items import TEST, Item, check_folds, read_csv, read_folders, settle


def touched(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def table(folder: Path, *rows: str, header: str = "path,label,subject,split") -> Path:
    file = folder / "scans.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def items(*rows: tuple[str, str, str]) -> list[Item]:
    return [
        Item(files=(Path(f"{number}.nii.gz"),), label=label, subject=subject, split=split)
        for number, (label, subject, split) in enumerate(rows)
    ]


def test_a_csv_gives_files_relative_to_it_with_their_channels(tmp_path: Path) -> None:
    touched(tmp_path / "a_0.nii.gz", tmp_path / "a_1.nii.gz", tmp_path / "sub" / "b.nii.gz")
    file = table(tmp_path, "a_0.nii.gz; a_1.nii.gz,ill,anna,test", "sub/b.nii.gz,well,bert,")
    first, second = read_csv(file)
    assert first == Item(
        files=(tmp_path / "a_0.nii.gz", tmp_path / "a_1.nii.gz"), label="ill", subject="anna", split=TEST
    )
    assert (second.files, second.split) == ((tmp_path / "sub" / "b.nii.gz",), "train")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("path,label", "a.nii.gz,ill", "has no column 'subject'"),
        ("path,label,subject", "no.nii.gz,ill,anna", r"image in line 2 of .*scans\.csv is not there: .*no\.nii\.gz"),
        ("path,label,subject", "a.nii.gz,,anna", r"Line 2 of .*scans\.csv has no label"),
        ("path,label,subject", "a.nii.gz,ill", r"Line 2 of .*scans\.csv has no subject"),
        ("path,label,subject,split", "a.nii.gz,ill,anna,val", "is 'val'; it must be train or test"),
    ],
)
def test_a_csv_with_a_mistake_is_refused(tmp_path: Path, header: str, row: str, message: str) -> None:
    touched(tmp_path / "a.nii.gz")
    with pytest.raises(NnsslError, match=message):
        read_csv(table(tmp_path, row, header=header))


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match=r"no\.csv cannot be read as CSV"):
        read_csv(tmp_path / "no.csv")


def test_folders_are_classes_with_images_or_subjects_inside(tmp_path: Path) -> None:
    touched(
        tmp_path / "ill" / "anna" / "t1_0000.nii.gz",
        tmp_path / "ill" / "anna" / "t1_0001.nii.gz",
        tmp_path / "ill" / "anna" / "later.nii.gz",
        tmp_path / "well" / "bert.nii.gz",
        tmp_path / ".hidden" / "x.nii.gz",
    )
    found = {(item.label, item.subject, len(item.files)) for item in read_folders(tmp_path)}
    assert found == {("ill", "anna", 2), ("ill", "anna", 1), ("well", "bert", 1)}


def test_folders_called_train_and_test_fix_the_test_subjects(tmp_path: Path) -> None:
    touched(tmp_path / "train" / "ill" / "a.nii.gz", tmp_path / "test" / "ill" / "b.nii.gz")
    assert {(item.subject, item.split) for item in read_folders(tmp_path)} == {("a", "train"), ("b", "test")}
    with pytest.raises(NnsslError, match="has no folders; it must have one for each class"):
        read_folders(tmp_path / "train" / "ill")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(NnsslError, match="empty holds no images"):
        read_folders(tmp_path / "train")


GOOD = (("ill", "a", "train"), ("ill", "b", "train"), ("well", "c", "train"), ("well", "d", "train"))


def test_test_subjects_and_the_order_of_classes_can_be_named() -> None:
    found, classes = settle(items(*GOOD, ("ill", "e", "train")), test=["e"], classes=["well", "ill"])
    assert [item.split for item in found] == ["train"] * 4 + ["test"]
    assert classes == ["well", "ill"]
    assert settle(items(*GOOD))[1] == ["ill", "well"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ((*GOOD, ("ill", "a", "test")), {}, "Subject a is in train and in test"),
        (GOOD[:3], {}, r"Class well has 1 subject\(s\) to train on; at least 2"),
        (GOOD[:2], {}, "Two classes are needed; the labels are ill"),
        ((*GOOD, ("sick", "e", "test")), {}, r"label 'sick', which is not among the training labels: ill, well"),
        (
            (*GOOD, ("il", "e", "train")),
            {"classes": ["ill", "well"]},
            r"'il', .*--classes: ill, well. Did you mean ill",
        ),
        (GOOD, {"test": ["anna"]}, "--test anna: there is no such subject"),
        (GOOD, {"test": ["a"]}, r"Class ill has 1 subject\(s\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(rows: tuple[tuple[str, str, str], ...], options: dict, message: str) -> None:
    with pytest.raises(NnsslError, match=message):
        settle(items(*rows), **options)


def test_an_image_given_twice_is_refused() -> None:
    one = items(*GOOD)
    with pytest.raises(NnsslError, match=r"0\.nii\.gz was given twice"):
        settle([*one, one[0]])


def test_more_folds_than_subjects_of_a_class_are_refused_with_the_number_that_would_do() -> None:
    check_folds(items(*GOOD), 2)
    with pytest.raises(NnsslError, match=r"--folds 5: .* and ill has 2\. Use a number from 2 to 2"):
        check_folds(items(*GOOD), 5)
