"""What a comparison settles before its first training, and what it refuses with one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from nnssl.cli.compare import main
from nnssl.errors import DataError, ExportError
from nnssl.evaluate.commands import Job, Runner, Slot
from nnssl.evaluate.compare.longer import pretraining_seconds, settle_longer
from nnssl.evaluate.compare.plan import SCRATCH, Request, make_arms, smallest_effects
from nnssl.evaluate.compare.run import Comparison
from nnssl.evaluate.compare.start import write_start
from nnssl.evaluate.compare.target import settle_target
from nnssl.evaluate.finetune.schedule import MeasuredSchedule
from nnssl.evaluate.settings import changed
from nnssl.export.proof import fresh_network
from nnssl.export.read import Weights
from nnssl.nnunet import build_network
from nnssl.paths import VARIABLES, Folders
from tests.evaluate.comparisons import CONFIGURATION, Silent, finish, make_workspace, request
from tests.export.test_doctor import peer_content
from tests.export.unets import stock_checkpoint
from tests.stock.test_fine_tuning import pretrained
from tests.tiny import tiny_architecture, tiny_plans

NAME = "Dataset004_Tiny"


@pytest.fixture
def where(tmp_path: Path, tiny_workspace: Path) -> Folders:
    """One target and two weights files."""
    return make_workspace(tmp_path, tiny_workspace)


def settled(where: Folders, asked: Request) -> tuple[Any, dict[str, Any]]:
    arms = make_arms(asked)
    return settle_target("4", asked, arms, where), arms


def change_json(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def the_weights(arms: dict[str, Any]) -> Weights:
    found: Weights = next(arm.weights for arm in arms.values() if arm.weights is not None)
    return found


# --- what is refused


def test_a_checkpoint_of_another_architecture(where: Folders, tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    architecture = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [8, 16, 32, 48]
    pretrained(tmp_path / "other.pth", plans, channels=1, decoder=False)
    with pytest.raises(
        ExportError, match=r"other.pth is of another architecture than nnsslPlans of .*48 -> 64 feature"
    ):
        settled(where, request(tmp_path, weights=[tmp_path / "other.pth"]))


def test_a_target_without_classes_or_labels(where: Folders, tmp_path: Path) -> None:
    home = where.preprocessed / NAME
    change_json(home / "dataset.json", lambda about: {**about, "labels": {"background": 0}})
    with pytest.raises(DataError, match="no class besides the background"):
        settled(where, request(tmp_path))
    shutil.rmtree(home / "gt_segmentations")
    with pytest.raises(DataError, match="has no labelled case"):
        settled(where, request(tmp_path))


def test_a_subject_on_both_sides_of_a_fold(where: Folders, tmp_path: Path) -> None:
    change_json(
        where.raw / NAME / "dataset.json", lambda about: {**about, "subjects": {"case_00": "anna", "case_02": "anna"}}
    )
    with pytest.raises(DataError, match="Subject anna is both trained and tested on in fold 0"):
        settled(where, request(tmp_path))


def test_a_single_test_subject(where: Folders, tmp_path: Path) -> None:
    split = [{"train": ["case_00", "case_01"], "val": ["case_02"]}]
    (where.preprocessed / NAME / "splits_final.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=r"1 test subject in fold\(s\) 0; a paired comparison needs at least 2"):
        settled(where, request(tmp_path))


def test_a_case_that_was_not_preprocessed(where: Folders, tmp_path: Path) -> None:
    (where.preprocessed / NAME / "nnsslPlans_3d_fullres" / "case_03.b2nd").unlink()
    with pytest.raises(DataError, match=r"1 case\(s\) of Dataset004_Tiny were not preprocessed .* case_03"):
        settled(where, request(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "0"], "numbers of labelled subjects and 'all', not '0'"),
        (["--labels", "1", "1"], "labels holds something twice"),
        (["--devices", "cpu", "cuda"], "devices of one kind"),
        (["--devices", "cpu:1"], "devices of one kind"),
        (["--replicates", "0"], "must be at least 1"),
        (["-j", "0"], "must be at least 1"),
        (["--tolerance_mm", "0"], "--tolerance_mm must be positive"),
    ],
)
def test_words_that_make_no_sense(
    where: Folders, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    path = str(tmp_path / "a" / "w.pth")
    assert main(["4", CONFIGURATION, "-w", path, "-o", str(tmp_path / "out"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_so_many_trainings_run_at_a_time_on_each_device(
    where: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[tuple[str, ...]]] = []

    def stop(self: Runner, *jobs: Job, slots: Sequence[Slot] = ()) -> None:
        asked.append([tuple(slot.words) for slot in slots])
        raise DataError("Far enough.")

    monkeypatch.setattr(Runner, "run", stop)
    monkeypatch.setattr(Comparison, "estimate", lambda self: "")  # times real steps
    given = ["4", CONFIGURATION, "-w", str(tmp_path / "a" / "w.pth"), "--labels", "1", "--workspace", str(tmp_path)]
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
    for words, places in ((["-device", "cpu"], 1), (["--devices", "cpu", "cpu", "-j", "2"], 4)):
        assert main([*given, "-o", str(tmp_path / "_".join(words)), *words]) == 1
        assert asked.pop() == [("-device", "cpu")] * places


# --- what is announced


def test_a_class_that_a_label_draw_lacks_is_announced(where: Folders, tmp_path: Path) -> None:
    for case in ("case_00", "case_01"):
        file = where.preprocessed / NAME / "gt_segmentations" / f"{case}.nii.gz"
        image = SimpleITK.ReadImage(str(file))
        labels = SimpleITK.GetArrayFromImage(image)
        changed_image = SimpleITK.GetImageFromArray(np.where(labels == 2, 1, labels))
        changed_image.CopyInformation(image)
        SimpleITK.WriteImage(changed_image, str(file))
    target, _ = settled(where, request(tmp_path, labels=["1", "all"], folds=(0, 1)))
    said = [warning for warning in target.warnings if "holds no voxel" in warning]
    assert said == [
        f"{NAME}: with {labels} label(s), draw 0 of fold 0 holds no voxel of lesion; no arm can learn it there."
        for labels in ("1", "all")
    ]


def test_a_tolerance_below_the_voxel_size_is_announced(where: Folders, tmp_path: Path) -> None:
    assert not any("a tolerance of" in warning for warning in settled(where, request(tmp_path))[0].warnings)
    target, _ = settled(where, request(tmp_path, tolerance_mm=0.5))
    assert any("a tolerance of 0.5 mm is below the voxel size (1 mm)" in warning for warning in target.warnings)


def test_test_cases_that_were_pretrained_on_are_counted(where: Folders, tmp_path: Path) -> None:
    from nnssl.evaluate.leakage import scan_hashes

    hashes = scan_hashes(NAME, ["case_02", "case_03"], "SimpleITKIO", where)
    content = torch.load(tmp_path / "a" / "w.pth", weights_only=True)
    content["provenance"]["data"] = {"sources": {"D/x": hashes["case_03"], "D/y": "another"}}
    torch.save(content, tmp_path / "a" / "w.pth")
    target, _ = settled(where, request(tmp_path))
    assert f"1 of 2 test cases were pretrained on by {tmp_path / 'a' / 'w.pth'}: case_03 as D/x." in target.warnings
    with pytest.raises(DataError, match="--strict: 1 of 2 test cases were pretrained on"):
        settled(where, request(tmp_path, strict=True))
    content["provenance"]["data"] = {"sources": {"D/y": "another"}}
    torch.save(content, tmp_path / "a" / "w.pth")
    assert settled(where, request(tmp_path, strict=True))[0].warnings == []


def test_hashes_of_scans_are_remembered_until_a_file_changes(where: Folders, tmp_path: Path) -> None:
    from nnssl.evaluate.leakage import scan_hashes

    memory = tmp_path / "scans.json"
    first = scan_hashes(NAME, ["case_02"], "SimpleITKIO", where, memory=memory)
    change_json(memory, lambda known: {"case_02": [known["case_02"][0], "kept"]})
    assert scan_hashes(NAME, ["case_02"], "SimpleITKIO", where, memory=memory) == {"case_02": "kept"}
    (where.raw / NAME / "imagesTr" / "case_02_0000.nii.gz").touch()
    assert scan_hashes(NAME, ["case_02"], "SimpleITKIO", where, memory=memory) == first


def test_what_so_many_subjects_and_draws_can_show_is_said_before() -> None:
    assert "cannot show any difference" in smallest_effects(5, 3)[0]
    said = smallest_effects(25, 3)
    assert "vary by 10 points between subjects, 25 test subjects show a gain of 5.6 points" in said[2]
    # (4.303 + 1.061) x 2 / sqrt(3)
    assert "3 draws show no gain below 6.2 points" in said[3]
    assert "about that draw alone" in smallest_effects(25, 1)[3]


# --- other makers' weights


@pytest.mark.parametrize("maker", ["stock", "peer"])
def test_other_makers_weights_are_arms(where: Folders, tmp_path: Path, maker: str) -> None:
    plans = tiny_plans(NAME)
    torch.manual_seed(7)
    network = build_network(tiny_architecture(), channels=1, classes=2)
    state = dict(network.state_dict())
    folder = tmp_path / "nnUNetTrainer__nnsslPlans__3d_fullres" / "fold_0"
    folder.mkdir(parents=True)
    content = stock_checkpoint(plans, state)
    if maker == "peer":
        content = {
            **peer_content(plans),
            "network_weights": {k: v for k, v in state.items() if k.startswith("encoder")},
        }
    torch.save(content, folder / "checkpoint_final.pth")
    weights = folder / "checkpoint_final.pth"
    target, arms = settled(where, request(tmp_path, weights=[weights], plans_name="nnsslPlans"))
    assert list(arms) == [SCRATCH, "nnUNetTrainer"]
    assert any("does not say which scans it saw" in warning for warning in target.warnings)
    write_start(tmp_path / "start.pth", the_weights(arms), target, 3)
    start = torch.load(tmp_path / "start.pth", weights_only=True)["network_weights"]
    scratch = fresh_network(tiny_architecture(), channels=1, classes=3, seed=3).state_dict()
    for name, tensor in start.items():
        trained = "encoder." in name or (maker == "stock" and ".seg_layers." not in name)
        assert torch.equal(tensor, state[name] if trained else scratch[name]), name


def test_two_checkpoints_of_one_trainer_are_two_arms(where: Folders, tmp_path: Path) -> None:
    both = [tmp_path / name / "w.pth" for name in "ab"]
    arms = make_arms(request(tmp_path, weights=both, equal_compute=True))
    assert list(arms) == ["scratch", "scratch_longer", "w", "w_2"]
    assert arms["w"].digest != arms["w_2"].digest


# --- equal compute


def test_hours_of_the_pretraining_make_scratch_longer(where: Folders, tmp_path: Path) -> None:
    target, arms = settled(where, request(tmp_path))
    schedule = changed(MeasuredSchedule(), {"epochs": 5, "iterations_per_epoch": 50})
    lines = [{"step": step, "epoch": 0, "seconds": 2.0} for step in range(100)]
    lines += [{"step": 50, "epoch": 0, "health": {}}]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pretraining_seconds(the_weights(arms)) == 200
    found = settle_longer(schedule, target, arms, seconds_per_iteration=0.3)
    assert found.epochs == 5 + 14  # 200 s are 13.3 epochs of 50 x 0.3 s
    assert "19 epochs instead of 5" in found.sentence and "0.0556 h in steps" in found.sentence


def test_without_a_journal_voxels_stand_for_hours(where: Folders, tmp_path: Path) -> None:
    content = torch.load(tmp_path / "a" / "w.pth", weights_only=True)
    content["provenance"] |= {"steps": 1000, "recipe": {"batch_size": 4}}
    torch.save(content, tmp_path / "a" / "w.pth")
    target, arms = settled(where, request(tmp_path))
    schedule = changed(MeasuredSchedule(), {"epochs": 5, "iterations_per_epoch": 50})
    found = settle_longer(schedule, target, arms, seconds_per_iteration=0.3)
    assert found.epochs == 5 + 40  # 1000 x 4 patches are 2000 batches of 2, or 40 epochs
    assert "its hours are unknown" in found.sentence


def test_a_settled_length_is_kept(where: Folders, tmp_path: Path) -> None:
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 0, "epoch": 0, "seconds": 100.0}\n')
    asked = request(tmp_path, equal_compute=True, settings={"epochs": "2", "iterations_per_epoch": "5", "threads": "1"})
    comparison = Comparison(asked, where, Silent())
    assert [one.arm for one in comparison.trainings[NAME]] == ["scratch", "w"]
    assert "of 3 trainings are done" in comparison.estimate()
    finish(comparison)  # 2 s an iteration
    comparison.settle_longer()
    assert comparison.notes.longer[NAME].epochs == 2 + 10
    again = Comparison(asked, where, Silent())
    longer = [one for one in again.trainings[NAME] if one.arm == "scratch_longer"]
    assert [one.schedule.epochs for one in longer] == [12]
    assert "12 epochs instead of 2" in " ".join(again.describe())
