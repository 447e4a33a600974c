"""The demonstration's data sets: nnU-Net's layout, subjects on one side only, real task folders of both kinds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK

from nnssl.cli.demo import main
from nnssl.demo.cohort import Cohort, make_phantom_cohort
from nnssl.demo.task_folder import import_task, split_cases
from nnssl.errors import DataError
from nnssl.evaluate.commands import Job, Runner


def write(path: Path, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


def task(folder: Path, cases: int, *, ending: str = "") -> Path:
    """A labelled task of 8 x 8 x 8 voxels; every second case belongs to the subject of the one before."""
    rng = np.random.default_rng(0)
    for index in range(cases):
        write(folder / "imagesTr" / f"scan_{index:02d}{ending}.nii.gz", rng.normal(size=(8, 8, 8)).astype(np.float32))
        write(folder / "labelsTr" / f"scan_{index:02d}.nii.gz", rng.integers(0, 3, (8, 8, 8)).astype(np.uint8))
    return folder


def test_the_phantom_cohort_is_two_nnunet_data_sets_without_shared_subjects(tmp_path: Path) -> None:
    cohort = make_phantom_cohort(tmp_path, unlabelled=3, training=2, test=2, spacing_mm=16.0)
    images = {path.name for path in (tmp_path / cohort.pretraining / "imagesTr").iterdir()}
    labelled = {path.name for path in (tmp_path / cohort.target / "imagesTr").iterdir()}
    assert len(images) == 3
    assert len(labelled) == 4
    assert not images & labelled
    assert json.loads((tmp_path / cohort.pretraining / "dataset.json").read_text())["labels"] == {"background": 0}
    assert set(cohort.training) | set(cohort.test) == {name[:-12] for name in labelled}


def test_a_saved_cohort_comes_back_equal(tmp_path: Path) -> None:
    cohort = make_phantom_cohort(tmp_path, unlabelled=1, training=1, test=1, spacing_mm=32.0)
    cohort.save(tmp_path / "cohort.json")
    assert Cohort.load(tmp_path / "cohort.json") == cohort
    assert cohort.organs == ("liver", "right_kidney", "left_kidney", "spine")


def test_a_split_file_is_respected() -> None:
    labelled = [f"c{index}" for index in range(14)]
    splits = {"pretrain_unlabelled": ["u0", "u1"], "fine_tune_labelled": labelled, "few_shot_5": labelled[3:8]}
    parts = split_cases([*labelled, "u0", "u1", "u2"], labelled, splits, {})
    assert parts.unlabelled == ("u0", "u1")
    assert parts.training == tuple(labelled[3:8])
    assert set(parts.test) == set(labelled) - set(labelled[3:8])


def test_subjects_are_never_split_between_parts() -> None:
    cases = [f"c{index:02d}" for index in range(80)]
    subjects = {case: str(index // 2) for index, case in enumerate(cases)}
    parts = split_cases(cases, cases, {}, subjects)
    sides = [{subjects[case] for case in side} for side in (parts.unlabelled, parts.training, parts.test)]
    assert all(sides)
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(sides[1]) == len(parts.training) == 5
    assert len(sides[2]) == len(parts.test)  # intervals over test cases are intervals over subjects


def test_a_split_file_that_leaks_is_refused() -> None:
    cases = [f"c{index:02d}" for index in range(16)]
    splits = {"pretrain_unlabelled": cases[:1], "fine_tune_labelled": cases[1:], "subject_of_case": {cases[0]: "c01"}}
    splits["few_shot_5"] = cases[1:6]
    with pytest.raises(DataError, match="pretrains on subjects that are fine-tuned or tested on: c00"):
        split_cases(cases, cases, splits, {})


def test_too_few_subjects_are_refused_with_the_count() -> None:
    with pytest.raises(DataError, match="6 to test on"):
        split_cases(["a", "b", "c"], ["a", "b", "c"], {}, {})


def test_a_decathlon_folder_is_taken(tmp_path: Path) -> None:
    source = task(tmp_path / "Task09_Spleen", 24)
    write(source / "imagesTr" / "._scan_00.nii.gz", np.zeros((2, 2, 2), np.uint8))  # the Decathlon's hidden files
    (source / "dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen", "2": "cyst"}})
    )
    cohort = import_task(source, tmp_path / "raw")
    assert cohort.labels == {"background": 0, "spleen": 1, "cyst": 2}
    assert cohort.target == "Dataset746_Spleen"
    about = json.loads((tmp_path / "raw" / cohort.target / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "CT"}
    assert len(cohort.training) == 5
    assert len(cohort.test) == 9  # half of the 19 left, because nothing else is there to pretrain on
    assert cohort.unlabelled == 3 + 16 - len(cohort.test)
    assert (tmp_path / "raw" / cohort.target / "imagesTr" / f"{cohort.test[0]}_0000.nii.gz").is_file()


def test_several_channels_of_a_decathlon_case_become_files(tmp_path: Path) -> None:
    source = task(tmp_path / "Task05_Prostate", 20)
    for path in (source / "imagesTr").iterdir():
        channel = SimpleITK.GetImageFromArray(np.ones((4, 4, 4), np.float32))
        SimpleITK.WriteImage(SimpleITK.JoinSeries([channel, channel * 2]), str(path))
    cohort = import_task(source, tmp_path / "raw")
    second = tmp_path / "raw" / cohort.target / "imagesTr" / f"{cohort.test[0]}_0001.nii.gz"
    image = SimpleITK.ReadImage(str(second))
    assert image.GetDimension() == 3
    assert SimpleITK.GetArrayFromImage(image).max() == 2


def test_what_had_to_be_guessed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    cohort = import_task(task(tmp_path / "Bare", 20, ending="_0000"), tmp_path / "raw", say=said.append)
    assert cohort.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert any("look like MR" in sentence for sentence in said)
    assert any("[0, 1, 2]" in sentence for sentence in said)


def test_a_folder_without_labels_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs imagesTr and labelsTr"):
        import_task(tmp_path, tmp_path / "raw")


def test_the_real_hippocampus_task_keeps_its_split(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "Task04_Hippocampus"
    cohort = import_task(source, tmp_path)
    splits = json.loads((source / "splits.json").read_text())
    assert cohort.unlabelled == 119
    assert set(cohort.training) == set(splits["few_shot_5"])

    def subjects(cases: Iterable[str]) -> set[int]:
        return {(int(case[-3:]) + 1) // 2 for case in cases}  # the two sides of a scan have ids 2k-1 and 2k

    assert len(subjects(cohort.test)) == len(cohort.test) == 16
    assert not subjects(cohort.test) & subjects([*splits["pretrain_unlabelled"], *cohort.training])


def test_the_command_takes_a_task_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def stop(self: Runner, *jobs: Job) -> None:
        commands.extend(Path(job.command[0]).name for job in jobs)
        raise DataError("Far enough.")

    monkeypatch.setattr(Runner, "run", stop)
    source, out = task(tmp_path / "Task09_Spleen", 24), tmp_path / "out"
    assert main(["--raw", str(source), "--out", str(out), "-device", "cpu"]) == 1
    assert commands == ["nnUNetv2_extract_fingerprint"]
    assert Cohort.load(out / "cohort.json").target == "Dataset746_Spleen"
    assert json.loads((out / "settings.json").read_text())["raw"] == str(source)


def test_a_task_folder_that_is_not_there_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--raw", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "-device", "cpu"]) == 1
    assert "--raw must be a task folder with imagesTr and labelsTr" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_an_unknown_subject_rule_is_refused() -> None:
    with pytest.raises(DataError, match="must map cases to subjects"):
        split_cases(["a"], ["a"], {"subject_of_case": "by hand"}, {})
