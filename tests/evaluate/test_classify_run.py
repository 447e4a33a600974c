"""`nnssl_classify`: the whole command on tiny scans, frozen and fine-tuned, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from torch import nn

from nnssl.cli._screen import Screen
from nnssl.cli.classify import main
from nnssl.errors import DataError
from nnssl.evaluate.classify.run import Classification, Request
from tests.export.weights import write_weights
from tests.tiny import make_raw_dataset, tiny_plans


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and a CSV of CT phantoms of two brightnesses: 8 subjects, 2 of them for tests."""
    root = tmp_path_factory.mktemp("classify")
    write_weights(root / "w.pth", tiny_plans("Dataset745_Pre"))
    rows = ["path,label,subject,split"]
    for number, label in ((5, "small"), (6, "large")):
        side = 16 if label == "small" else 22
        folder = make_raw_dataset(root, number, 5, shape=(side, side, side), seed=number)
        for index in range(5):
            split = "test" if index == 4 else ""
            file = folder / "imagesTr" / f"case_{index:02d}_0000.nii.gz"
            rows.append(f"{file.relative_to(root)},{label},{label}{index},{split}")
    (root / "scans.csv").write_text("\n".join(rows) + "\n")
    return root


def run(scans: Path, out: Path, *words: str) -> int:
    given = ["--csv", str(scans / "scans.csv"), "--folds", "2", "-device", "cpu", "-o", str(out)]
    return main([str(scans / "w.pth"), *given, *words])


@pytest.mark.pipeline
def test_the_command_writes_figures_predictions_and_takes_over_what_is_done(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tuning = ["--finetune", "--set", "epochs=1", "lr=1e-3", "batch_size=4"]
    assert run(scans, out, *tuning) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["auc_of"] == "small"
    assert set(report["results"]) == {"cross-validation", "fixed test subjects"}
    for where, images in (("cross-validation", 8), ("fixed test subjects", 2)):
        assert set(report["results"][where]) == {"linear", "knn", "fine-tuned"}
        for result in report["results"][where].values():
            assert set(result["networks"]) == {"pretrained", "untrained"}
            assert result["images"] == images
            for value in result["networks"]["pretrained"].values():
                assert 0 <= value["value"] <= 1
    said = capsys.readouterr().out
    assert "10 images of 10 subjects (large 5, small 5), 2 of them of fixed test subjects; 2 folds" in said
    assert "does not say which scans it saw" in said, "leaks cannot be ruled out"
    with (out / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10 * 3 * 2
    tested = {row["subject"] for row in rows if row["judged_by"] == "fixed test subjects"}
    assert tested == {"small4", "large4"}
    assert all(float(row["large"]) + float(row["small"]) == pytest.approx(1, abs=1e-4) for row in rows)
    first = (out / "finetuned_pretrained_fold0.json").stat().st_mtime_ns
    assert run(scans, out, *tuning) == 0
    assert (out / "finetuned_pretrained_fold0.json").stat().st_mtime_ns == first
    again = json.loads((out / "report.json").read_text())
    assert again == report


def test_frozen_features_of_folders_without_a_baseline(scans: Path, tmp_path: Path) -> None:
    for number, label in ((5, "small"), (6, "large")):
        for index in range(2):
            file = scans / f"Dataset00{number}_Tiny" / "imagesTr" / f"case_{index:02d}_0000.nii.gz"
            target = tmp_path / "in" / label / f"s{number}{index}" / "scan.nii.gz"
            target.parent.mkdir(parents=True)
            target.symlink_to(file)
    given = ["--folders", str(tmp_path / "in"), "--folds", "2", "-device", "cpu", "--no_untrained"]
    assert main([str(scans / "encoder.safetensors"), *given, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["results"]["cross-validation"]["linear"]["networks"]) == {"pretrained"}
    assert "difference" not in report["results"]["cross-validation"]["linear"]


def test_the_seed_decides_folds_the_untrained_network_and_fine_tuning(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []
    untrained_with: list[int] = []

    def note(network: nn.Module, *, seed: int) -> nn.Module:
        untrained_with.append(seed)
        raise DataError("Far enough.")

    class Noted(Classification):
        def __init__(self, request: Request, screen: Screen) -> None:
            super().__init__(request, screen)
            asked.append(request)
            folds.append([tuple(left_out) for _, left_out in self.folds])

    folds: list[list[tuple[int, ...]]] = []
    monkeypatch.setattr("nnssl.evaluate.classify.run.Classification", Noted)
    monkeypatch.setattr("nnssl.evaluate.classify.run.untrained", note)
    for number in (0, 0, 5):
        assert run(scans, tmp_path, "--finetune", "--seed", str(number)) == 1
    assert untrained_with == [0, 0, 5]
    assert [request.finetuning and request.finetuning.seed for request in asked] == [0, 0, 5]
    assert folds[0] == folds[1] != folds[2]


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (("case_00", "case_77"), [], "image in line 2 of"),
        (("small0,", "small4,"), [], "Subject small4 is in train and in test"),
        (("small,small0", ",small0"), [], "has no label"),
        ((",test", ",tset"), [], "must be train or test"),
        (("", ""), ["--folds", "9"], "--folds 9: every fold needs a subject of every class, and large has 4"),
        (("", ""), ["--classes", "small", "big"], "label 'large', which is not among --classes: small, big"),
        (("", ""), ["--test", "anna"], "--test anna: there is no such subject"),
        (("", ""), ["--set", "epochs=3"], "give --finetune too"),
        (("", ""), ["--finetune", "--set", "epoch=3"], "Did you mean epochs"),
        (("case_00_0000.nii.gz,", "case_00_0000.nii.gz;Dataset005_Tiny/imagesTr/case_00_0000.nii.gz,"), [],
         "was given twice"),
        (("imagesTr/case_01_0000.nii.gz", "imagesTr/case_01_0000.nii.gz;w.pth"), [], "The weights take 1 channel(s)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    words: list[str],
    message: str,
) -> None:
    text = (scans / "scans.csv").read_text()
    changed = text.replace(change[0], change[1], 1) if change[0] else text
    wrong = scans / "wrong.csv"
    wrong.write_text(changed)
    given = ["--csv", str(wrong), "--folds", "2", "-device", "cpu", "-o", str(tmp_path / "out"), *words]
    assert main([str(scans / "w.pth"), *given]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_all_bad_images_are_named_and_the_good_ones_are_kept(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "bad.nii.gz").write_bytes(b"no image")
    text = (scans / "scans.csv").read_text().splitlines()
    wrong = scans / "bad.csv"
    wrong.write_text("\n".join([*text, "bad.nii.gz,small,bad,"]) + "\n")
    assert main([str(scans / "w.pth"), "--csv", str(wrong), "--folds", "2", "-device", "cpu", "-o", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "1 of 11 images could not be used" in said
    assert "bad.nii.gz" in said
    assert (tmp_path / "vectors.npz").is_file()
