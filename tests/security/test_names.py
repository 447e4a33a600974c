"""Names of strangers (tables, lists, DICOM, dataset.json) never become paths or markup: nothing leaves its folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest

from nnssl.cli.ingest import main as ingest
from nnssl.cli.match import main as match
from nnssl.cli.plan_and_preprocess import main as plan_and_preprocess
from nnssl.data.index import INDEX_FILE, read_index
from nnssl.errors import DataError
from nnssl.evaluate.classify.items import Item
from nnssl.evaluate.classify.vectors import prepared_file
from nnssl.paths import VARIABLES
from tests.engine.workspace import DATASET, make_workspace
from tests.ingest.scans import texture, write_nifti, write_series
from tests.tiny import make_raw_dataset

EVIL = [
    "../../x",
    "/nnssl-evil/x",
    "$(touch mark)",
    "`touch mark`; touch mark",
    "a\nb",
    "x" * 300,
    "..",
    ".hidden",
    "C:\\x",
    "CON",
    "<script>alert(1)</script>",
    "=cmd()",
    "x_0001",
    "\u202egnp.exe",
]


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An own working folder, so that what is written beside it is seen."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")


def scans(folder: Path, count: int) -> list[Path]:
    """Sound files s0.nii .. of different voxels."""
    folder.mkdir(parents=True)
    for number in range(count):
        write_nifti(folder / f"s{number}.nii", texture(number, (12, 14, 16)))
    return [folder / f"s{number}.nii" for number in range(count)]


def taken_in(source: Path, tmp_path: Path, *words: str) -> Path:
    """Ingest, and check that files lie where they should and have harmless names."""
    ingest([str(source), "-d", "745", "-n", "Evil", "--channels", "MR", "--workspace", str(tmp_path / "w"), *words])
    written = {path for path in (tmp_path / "w").rglob("*") if path.is_file()}
    raw = tmp_path / "w" / "nnUNet_raw" / "Dataset745_Evil"
    assert written and all(path.is_relative_to(raw) for path in written)
    for path in raw.glob("imagesTr/*"):
        assert path.name.removesuffix(".nii.gz").replace("_", "").replace("-", "").isalnum() and len(path.name) < 128
    assert not list((tmp_path / "cwd").iterdir()) and not Path("/nnssl-evil").exists()
    page = (raw / "ingest" / "report.html").read_text()
    assert "<script>alert" not in page
    return raw


def cases(raw: Path) -> list[str]:
    """Names of the cases that were taken."""
    return sorted(path.name for path in raw.glob("imagesTr/*.nii.gz"))


def test_names_in_a_table_become_harmless_and_stay_apart(tmp_path: Path) -> None:
    files = scans(tmp_path / "source", len(EVIL) + 2)
    with (tmp_path / "source" / "scans.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "subject", "session", "case", "split"])
        for name, file in zip([*EVIL, "a b", "a/b"], files, strict=True):  # the last two look alike when cleaned
            table.writerow([file.name, name, name, name, name])
    raw = taken_in(tmp_path / "source" / "scans.csv", tmp_path, "--accept", "unknown_split")
    assert len(cases(raw)) == len(EVIL) + 2
    assert {"a-b_0000.nii.gz", "a-b-2_0000.nii.gz", "a-b-3_0000.nii.gz"} <= {*cases(raw)}


@pytest.mark.parametrize("form", ["monai", "peer"])
def test_names_in_a_json_list_become_harmless(tmp_path: Path, form: str) -> None:
    files = scans(tmp_path / "source", len(EVIL))
    pairs = list(zip(EVIL, files, strict=True))
    content: dict[str, Any] = {"training": [{"image": file.name, "subject": name} for name, file in pairs]}
    if form == "peer":
        subjects = {
            name: {"subject_id": name, "sessions": {name: {"images": [{"image_path": str(file), "modality": name}]}}}
            for name, file in pairs
        }
        content = {"datasets": {"d": {"name": "../../d", "subjects": subjects}}}
    (tmp_path / "source" / "dataset.json").write_text(json.dumps(content))
    raw = taken_in(tmp_path / "source" / "dataset.json", tmp_path)
    assert len(cases(raw)) == len(EVIL)


def test_paths_in_lists_do_not_lead_out_of_the_lists_folder(tmp_path: Path) -> None:
    (outside,) = scans(tmp_path / "outside", 1)
    (inside,) = scans(tmp_path / "source", 1)
    paths = ["../outside/s0.nii", "a/../../outside/s0.nii", "\0", "x" * 5000, "", inside.name]
    entries = [{"image": path} for path in paths]
    (tmp_path / "source" / "dataset.json").write_text(json.dumps({"training": entries}))
    raw = taken_in(tmp_path / "source" / "dataset.json", tmp_path)
    assert cases(raw) == ["s0_0000.nii.gz"] and outside.is_file()


def test_dicom_fields_become_harmless(tmp_path: Path) -> None:
    for number, name in enumerate(EVIL[:7]):
        folder = tmp_path / "source" / f"series{number}"
        write_series(folder, texture(number, (6, 12, 14)), modality="MR", uid=f"1.2.{number + 3}", intercept=0.0)
        for file in folder.iterdir():
            header = pydicom.dcmread(file)
            header.PatientID = header.PatientName = header.SeriesDescription = header.StudyID = name[:60]
            header.save_as(file)
    raw = taken_in(
        tmp_path / "source", tmp_path, "--report", str(tmp_path / "w" / "nnUNet_raw" / "Dataset745_Evil" / "ingest")
    )
    assert len(cases(raw)) == 7


@pytest.mark.parametrize("name", ["../../x", "/nnssl-evil/x", "a/b", "a\\b", "a\nb", "a\0b", "..", ".x", "x" * 300, ""])
def test_case_names_in_dataset_json_are_file_names_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    raw = make_raw_dataset(tmp_path / "w" / "nnUNet_raw", 745, 2, shape=(20, 22, 24))
    about = json.loads((raw / "dataset.json").read_text())
    images = [f"imagesTr/case_0{number}_0000.nii.gz" for number in (0, 1)]
    about["dataset"] = {name: {"images": [images[0]], "label": ""}, "good": {"images": [images[1]], "label": ""}}
    (raw / "dataset.json").write_text(json.dumps(about))
    before = sorted(tmp_path.rglob("*"))
    assert plan_and_preprocess(["-d", "745", "-np", "1", "--workspace", str(tmp_path / "w")]) == 1
    assert "cannot name a file" in " ".join(capsys.readouterr().err.split())
    home = tmp_path / "w" / "nnUNet_preprocessed" / "Dataset745_Tiny"
    new = [path for path in sorted({*tmp_path.rglob("*")} - {*before}) if path.is_file()]
    assert new and all(path.is_relative_to(home) for path in new)
    assert sorted(read_index(home / "nnsslPlans_3d_fullres").entries) == ["good"]


@pytest.mark.parametrize("key", ["file", "raw_file", "sidecars"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, key: str) -> None:
    folder = make_workspace(tmp_path, cases=2) / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres"
    content = json.loads((folder / INDEX_FILE).read_text())
    for evil in ("../../../other.b2nd", "/etc/passwd"):
        content["entries"]["case_00"][key] = {"body": evil} if key == "sidecars" else evil
        (folder / INDEX_FILE).write_text(json.dumps(content))
        with pytest.raises(DataError, match="must lie in the folder itself"):
            read_index(folder)


def test_names_in_a_table_of_matches_are_looked_up_and_never_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_raw_dataset(tmp_path / "w" / "nnUNet_raw", 745, 2, shape=(20, 22, 24))
    for name in ("../../x", "/etc/passwd", "$(touch mark)"):
        words = ["-d", "745", "--matcher", "body", "--case", name, "--points", "0,0,0", "-o", str(tmp_path / "out")]
        assert match([*words, "--workspace", str(tmp_path / "w")]) != 0
        assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_images_to_classify_are_kept_under_digests() -> None:
    def kept(names: Sequence[str]) -> Path:
        return prepared_file(Path("out"), Item(files=tuple(map(Path, names)), label="../x", subject="../../y"))

    assert kept(["../../x.nii"]).parent == kept(["/etc/y.nii"]).parent == Path("out") / kept(["a"]).parent.name


def test_a_plans_name_given_to_a_command_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(tmp_path / "w" / "nnUNet_raw", 745, 2, shape=(20, 22, 24))
    for name in ("../x", "/x", "a/b", "a\\b", ".x"):
        assert plan_and_preprocess(["-d", "745", "--only_pp", "-p", name, "--workspace", str(tmp_path / "w")]) == 2
        assert "A plans name names folders" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "w")
