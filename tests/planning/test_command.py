"""nnssl_plan_and_preprocess as a user meets it."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from nnssl.cli.plan_and_preprocess import main
from nnssl.data.index import read_index
from nnssl.data.sidecar import BodyMask
from nnssl.errors import PlanError, UsageError
from nnssl.planning import requirements
from nnssl.planning.grid import case_plan
from nnssl.planning.planner import load_plans, save_plans
from nnssl.planning.requirements import Required
from tests.tiny import make_raw_dataset, tiny_plans, workspace_folders

IDENTIFIER = "nnsslPlans_3d_fullres"


@pytest.fixture
def workspace(tmp_path, no_folders):
    make_raw_dataset(workspace_folders(tmp_path).raw, 745, 3, shape=(30, 32, 34))
    return tmp_path


def run(workspace, *arguments):
    return main(["--workspace", str(workspace), "-np", "1", *arguments])


def preprocessed(workspace, dataset="Dataset745_Tiny"):
    return workspace / "nnUNet_preprocessed" / dataset


@pytest.mark.pipeline
@pytest.mark.parametrize("planner", ["ExperimentPlanner", "nnUNetPlannerResEncM"])
def test_unlabelled_scans_are_planned_and_preprocessed(workspace, planner, capsys):
    assert run(workspace, "-d", "745", "-pl", planner) == 0
    folder = preprocessed(workspace)
    plans = load_plans(folder / "nnsslPlans.json")
    name = plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    assert name.endswith("ResidualEncoderUNet" if "ResEnc" in planner else "PlainConvUNet")
    assert plans["experiment_planner_used"] == planner and plans["image_reader_writer"] == "SimpleITKIO"
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0}
    assert (folder / "dataset_fingerprint.json").is_file()
    assert len(read_index(folder / IDENTIFIER).entries) == 3
    assert "3 cases preprocessed" in capsys.readouterr().out
    assert run(workspace, "-d", "Dataset745_Tiny", "-pl", planner) == 0
    assert "0 cases preprocessed, 3 were done before" in capsys.readouterr().out


@pytest.mark.pipeline
def test_a_target_spacing_and_a_name_can_be_given(workspace):
    given = ["-overwrite_target_spacing", "2", "1.5", "1.5", "-overwrite_plans_name", "coarse"]
    assert run(workspace, "-d", "745", *given) == 0
    plans = load_plans(preprocessed(workspace) / "coarse.json")
    assert plans["configurations"]["3d_fullres"]["spacing"] == [2.0, 1.5, 1.5]
    assert len(read_index(preprocessed(workspace) / "coarse_3d_fullres").entries) == 3


@pytest.mark.pipeline
def test_plans_edited_by_hand_are_not_overwritten(workspace, capsys):
    assert run(workspace, "-d", "745", "--no_pp") == 0
    file = preprocessed(workspace) / "nnsslPlans.json"
    plans = load_plans(file)
    plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
    plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 5}
    file.write_text(json.dumps(plans))
    assert run(workspace, "-d", "745") == 1
    assert "3d_fullres.spacing" in capsys.readouterr().err
    assert run(workspace, "-d", "745", "--only_pp", "-c", "mine") == 0
    entry = read_index(preprocessed(workspace) / IDENTIFIER).entries["case_00"]
    assert all(1.8 < side < 2.2 for side in entry.spacing_mm)
    assert run(workspace, "-d", "745", "--clean") == 0
    replaced = load_plans(file)["configurations"]
    assert replaced["3d_fullres"]["spacing"] == [1.5, 1.25, 1.0] and replaced["mine"]["batch_size"] == 5


def with_target(workspace, **changes):
    where = workspace_folders(workspace)
    make_raw_dataset(where.raw, 4, 1, shape=(12, 13, 14), labels=True)
    plans = tiny_plans("Dataset004_Tiny", plans_name="nnUNetPlans", spacing_mm=(2.0, 1.3, 1.3), **changes)
    save_plans(preprocessed(workspace, "Dataset004_Tiny") / "nnUNetPlans.json", plans, replace=False)
    return plans


@pytest.mark.pipeline
def test_the_plans_of_a_target_are_taken_over(workspace):
    theirs = with_target(workspace)
    assert run(workspace, "-d", "745", "-target", "4") == 0
    plans = load_plans(preprocessed(workspace) / "nnsslPlans.json")
    own, other = plans["configurations"]["3d_fullres"], theirs["configurations"]["3d_fullres"]
    assert own["data_identifier"] == IDENTIFIER and plans["dataset_name"] == "Dataset745_Tiny"
    assert {**own, "data_identifier": ""} == {**other, "data_identifier": ""}
    key = "foreground_intensity_properties_per_channel"
    assert plans[key] == theirs[key]
    assert len(read_index(preprocessed(workspace) / IDENTIFIER).entries) == 3


@pytest.mark.pipeline
def test_a_target_that_normalises_otherwise_is_warned_of_and_other_channels_refused(workspace, capsys):
    with_target(workspace, kind="mr")
    assert run(workspace, "-d", "745", "-target", "4", "--no_pp") == 0
    assert "ZScoreNormalization, Dataset745_Tiny by itself would with CTNormalization" in capsys.readouterr().out
    (preprocessed(workspace, "Dataset004_Tiny") / "nnUNetPlans.json").unlink()
    with_target(workspace, kind="two")
    assert run(workspace, "-d", "745", "-target", "4", "--no_pp", "--clean") == 1
    assert "take 2 input channels and Dataset745_Tiny has 1" in capsys.readouterr().err


def test_bad_cases_end_in_a_list_and_skip_bad_in_success(workspace, capsys):
    where = workspace_folders(workspace)
    os.truncate(where.raw / "Dataset745_Tiny" / "imagesTr" / "case_01_0000.nii.gz", 900)
    save_plans(preprocessed(workspace) / "nnsslPlans.json", tiny_plans("Dataset745_Tiny"), replace=False)
    assert run(workspace, "-d", "745", "--only_pp") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "1 case cannot be used; all others are done" in error and "case_01_0000.nii.gz is truncated" in error
    assert len(read_index(preprocessed(workspace) / IDENTIFIER).entries) == 2
    assert run(workspace, "-d", "745", "--only_pp", "--skip_bad") == 0
    assert "left out (--skip_bad)" in capsys.readouterr().err


def test_parts_need_plans_and_make_their_share(workspace, capsys):
    assert run(workspace, "-d", "745", "--part", "1/2") == 1
    assert "Plan first" in capsys.readouterr().err
    save_plans(preprocessed(workspace) / "nnsslPlans.json", tiny_plans("Dataset745_Tiny"), replace=False)
    assert run(workspace, "-d", "745", "--part", "2/2") == 0
    assert list(read_index(preprocessed(workspace) / IDENTIFIER).entries) == ["case_01"]


def test_for_makes_what_trainers_need(workspace, monkeypatch):
    asked = []

    def fake(names, preset):
        asked.append((names, preset))
        return Required(raw=True, sidecars=(BodyMask,))

    monkeypatch.setattr(requirements, "of_trainers", fake)
    save_plans(preprocessed(workspace) / "nnsslPlans.json", tiny_plans("Dataset745_Tiny"), replace=False)
    assert run(workspace, "-d", "745", "--only_pp", "--for", "ATrainer", "BTrainer", "--preset", "paper") == 0
    assert asked == [(["ATrainer", "BTrainer"], "paper")]
    entry = read_index(preprocessed(workspace) / IDENTIFIER).entries["case_00"]
    assert entry.raw_path.is_file() and entry.sidecars == {"body": "case_00.body.npz"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "745", "-c", "2d"], "2d cannot be chosen"),
        (["-d", "9"], "no data set with id 9"),
        (["-d", "745", "-np", "0"], "-np must be at least 1"),
        (["-d", "745", "--part", "3/2"], "I from 1 to N"),
        (["-d", "745", "--only_pp", "-p", "absent"], r"absent\.json does not exist"),
        (["-d", "745", "--preset", "paper"], "name the trainer with --for"),
        (["-d", "745", "-target", "4", "-pl", "nnUNetPlannerResEncM"], "would change them"),
        (["-d", "745", "--no_pp", "--only_pp"], "plans only"),
        (["-d", "745", "-p", "x"], "-overwrite_plans_name"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(workspace, capsys, arguments, message):
    assert main(["--workspace", str(workspace), *arguments]) != 0
    error = capsys.readouterr().err
    assert re.search(message, " ".join(error.split())) and "Traceback" not in error


def test_unset_folders_are_named(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.setenv("nnUNet_results", "x")
    assert main(["-d", "745"]) == 2
    assert "nnUNet_raw and nnUNet_preprocessed are not set" in capsys.readouterr().err


def test_misspelt_and_abbreviated_flags_are_refused(capsys):
    for flag in ("--skipbad", "--skip", "-target_plan"):
        with pytest.raises(SystemExit) as caught:
            main(["-d", "745", flag, "x"])
        assert caught.value.code == 2 and flag in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(workspace, monkeypatch, capsys):
    from nnssl.planning import write_case

    def full(path, array, patch_size):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(write_case, "write_array", full)
    save_plans(preprocessed(workspace) / "nnsslPlans.json", tiny_plans("Dataset745_Tiny"), replace=False)
    assert run(workspace, "-d", "745", "--only_pp") == 1
    assert "The disk is full while writing" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom nnssl.cli.plan_and_preprocess import main\n"
        "try:\n    main(['-h'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'nnunetv2', 'scipy', 'numpy', 'SimpleITK'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "examples:" in out and out.strip().endswith("[]")


def test_configurations_that_make_no_sense_are_refused():
    plans = tiny_plans("Dataset745_Tiny")
    plans["configurations"]["stage2"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"]["own"] = {**plans["configurations"]["3d_fullres"], "preprocessor_name": "Mine"}
    for configuration, error, message in [
        ("2d", UsageError, "3D networks"),
        ("3d_lowres", UsageError, "have no configuration '3d_lowres'; they have 3d_fullres"),
        ("stage2", UsageError, "cascade"),
        ("own", PlanError, "preprocessor 'Mine'"),
    ]:
        with pytest.raises(error, match=message):
            case_plan(plans, configuration)
    del plans["configurations"]["3d_fullres"]["spacing"]
    with pytest.raises(PlanError, match="'spacing'"):
        case_plan(plans, "3d_fullres")


def test_what_to_run_next_is_said_for_each_data_set(workspace, capsys):
    make_raw_dataset(workspace_folders(workspace).raw, 746, 3, shape=(30, 32, 34))
    assert run(workspace, "-d", "745", "746", "--no_pp") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Preprocess with:")]
    assert [re.search(r"-d (\d+) ", line)[1] for line in said] == ["745", "746"]
    assert all(line.endswith(f"--workspace {workspace}") for line in said)


def test_cases_that_methods_would_refuse_are_named(workspace, capsys):
    images = workspace / "nnUNet_raw" / "Dataset745_Tiny" / "imagesTr"
    tiny = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(-300, 300, (7, 5, 3)).astype(np.float32))
    SimpleITK.WriteImage(tiny, str(images / "speck_0000.nii.gz"))
    assert run(workspace, "-d", "745") == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning:")]
    assert len(warned) == 1 and "speck (5, 4, 3) would fill less than 50% of the patch" in warned[0], warned
