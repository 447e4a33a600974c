"""What a hostile or unlucky user does to the commands: one sentence, no traceback, and an exit code that is not 0.

The mains are called in this process: a traceback would be an exception that leaves them. Readers, states, recipes and
single options have their own tests beside their modules; here is what only whole commands meet.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.cli.plan_and_preprocess import main as plan_and_preprocess
from nnssl.cli.plan_like import main as plan_like
from nnssl.cli.pretrain import main as pretrain
from nnssl.data.index import read_index
from nnssl.data.store import read_header
from nnssl.registry import find_trainer
from tests.engine.workspace import DATASET, TRAINERS, make_workspace
from tests.tiny import make_raw_dataset, workspace_folders

Edit = Callable[[Any], object]
SCANS = "Dataset745_Tiny"
TINY_RUN = ("epochs=1", "steps_per_epoch=1", "batch_size=2")


@pytest.fixture(autouse=True)
def clean_environment(no_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnssl_extTrainer", str(TRAINERS))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Dataset745_Tiny with two scans of about 20 voxels a side, not planned."""
    return make_raw_dataset(workspace_folders(tmp_path).raw, 745, 2, shape=(20, 22, 24))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"), cases=4)


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Path:
    """A preprocessed data set to be spoiled."""
    return Path(shutil.copytree(prepared, tmp_path / "workspace"))


class Said:
    """Runs a command that must fail in words and gives its one paragraph."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def _of(self, code: int) -> str:
        message = " ".join(self.capsys.readouterr().err.split())
        assert code not in (0, None), message
        assert "nnssl_" in message and "Traceback" not in message
        return message

    def planning(self, root: Path, *words: str) -> str:
        return self._of(plan_and_preprocess(["-d", "745", "-np", "1", "--workspace", str(root), *words]))

    def pretraining(self, root: Path, *words: str, trainer: str = "TinyTrainer") -> str:
        start = ["701", "3d_fullres", "-tr", trainer, "-device", "cpu", "--workspace", str(root)]
        return self._of(pretrain([*start, *words, "--set", *TINY_RUN]))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def edit_json(file: Path, edit: Edit) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


# ---------------------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("offset", "spoilt", "message"),
    [
        (108, struct.pack("<f", float("nan")), "vox_offset is no number"),
        (80, struct.pack("<f", float("nan")), "voxel size of 0 or NaN"),
        (80, struct.pack("<3f", 1e-9, 1e-9, 1e-9), "Correct its header"),  # it differs from the sform
        (42, struct.pack("<3h", 32000, 32000, 32000), "more than memory holds"),
        (70, struct.pack("<h", 999), "is damaged"),
    ],
)
def test_spoilt_headers_quarantine_the_case(raw: Path, said: Said, offset: int, spoilt: bytes, message: str) -> None:
    file = raw / "imagesTr" / "case_00_0000.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[offset : offset + len(spoilt)] = spoilt
    file.write_bytes(gzip.compress(bytes(content)))
    words = said.planning(raw.parents[1])
    assert message in words and "1 case cannot be used; all others are done" in words
    folder = raw.parents[1] / "nnUNet_preprocessed" / SCANS / "nnsslPlans_3d_fullres"
    assert sorted(read_index(folder).entries) == ["case_01"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channel_names", {"0": None}, '"channel_names"'),
        ("labels", ["a"], '"labels"'),
        ("numTraining", "two", '"numTraining"'),
        ("numTraining", 0, '"numTraining"'),
        ("subjects", {"case_00": None}, '"subjects"'),
        ("overwrite_image_reader_writer", "NoSuchIO", "no reader 'NoSuchIO'"),
        ("overwrite_image_reader_writer", 5, "no reader '5'"),
        ("dataset", {"x": {"images": "a.nii.gz"}}, "no list"),
        ("file_ending", ".mgz", "holds no images called CASE_0000.mgz"),
    ],
)
def test_a_wrong_value_in_dataset_json_is_named(raw: Path, said: Said, key: str, value: object, message: str) -> None:
    edit_json(raw / "dataset.json", lambda content: content.update({key: value}))
    assert message in said.planning(raw.parents[1], "--no_pp")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-overwrite_plans_name", "a/b"), "no slash"),
        (("-overwrite_plans_name", ""), "unlike ''"),
        (("-overwrite_plans_name", "a__b"), "no '__'"),
        (("-overwrite_target_spacing", "nan", "1", "1"), "three sizes in mm"),
        (("-overwrite_target_spacing", "inf", "1", "1"), "three sizes in mm"),
        (("-overwrite_target_spacing", "100", "100", "100"), "finds no plan"),
        (("--part", "0/3"), "I from 1 to N"),
        (("--part", "5/4"), "I from 1 to N"),
    ],
)
def test_values_that_no_plan_can_have_are_refused(raw: Path, said: Said, words: tuple[str, ...], message: str) -> None:
    assert message in said.planning(raw.parents[1], *words)


@pytest.mark.parametrize("content", ["[]", "null", "5", "{"])
def test_a_garbled_fingerprint_is_named(raw: Path, said: Said, content: str) -> None:
    folder = raw.parents[1] / "nnUNet_preprocessed" / SCANS
    folder.mkdir(parents=True)
    (folder / "dataset_fingerprint.json").write_text(content)
    assert "Delete it, it will be made again" in said.planning(raw.parents[1], "--no_pp")


def test_names_of_all_kinds_are_kept_apart(raw: Path, said: Said) -> None:
    images = raw / "imagesTr"
    (images / "case_00_0000.nii.gz").rename(images / "we ird.ü.v1.2_0000.nii.gz")
    (images / "link_0000.nii.gz").symlink_to(images / "case_01_0000.nii.gz")
    (images / "dangling_0000.nii.gz").symlink_to(images / "nowhere.nii.gz")
    (images / "folder_0000.nii.gz").mkdir()
    shutil.copy(images / "case_01_0000.nii.gz", images / "case_01_raw_0000.nii.gz")
    words = said.planning(raw.parents[1], "--accept", "duplicate")
    assert "3 cases cannot be used" in words
    assert "called as the raw values of case case_01" in words
    folder = raw.parents[1] / "nnUNet_preprocessed" / SCANS / "nnsslPlans_3d_fullres"
    assert sorted(read_index(folder).entries) == ["case_01", "link", "we ird.ü.v1.2"]


def test_subjects_of_cases_that_are_not_there_are_told(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(raw / "dataset.json", lambda content: content.update(subjects={"csae_00": "anna"}))
    assert plan_and_preprocess(["-d", "745", "--workspace", str(raw.parents[1]), "--no_pp"]) == 0
    assert "names 1 cases that are not there (csae_00)" in capsys.readouterr().out


def test_a_workspace_that_is_a_file_is_refused(raw: Path, said: Said) -> None:
    assert "A folder is needed where a file lies" in said.planning(raw / "dataset.json")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mgz"])
def test_every_nasty_file_is_preprocessed_or_left_out_with_the_reason(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """All files of one ending in one data set: each is in the index, readable and finite, or named with a reason."""
    files = [file for file in sorted((shared_data / "nasty").iterdir()) if file.name.endswith(ending)]
    raw = make_raw_dataset(workspace_folders(tmp_path).raw, 745, 0, kind="mr")
    edit_json(raw / "dataset.json", lambda content: content.update(file_ending=ending, numTraining=len(files)))
    for file in files:
        shutil.copy(file, raw / "imagesTr" / f"{file.name.removesuffix(ending)}_0000{ending}")
    spacing = ("-overwrite_target_spacing", "3", "3", "3")
    code = plan_and_preprocess(["-d", "745", "--workspace", str(tmp_path), "--skip_bad", *spacing])
    message = capsys.readouterr().err
    if ending == ".mgz":
        assert code == 1 and "reads no files that end in '.mgz'" in message
        return
    assert code == 0
    index = read_index(tmp_path / "nnUNet_preprocessed" / SCANS / "nnsslPlans_3d_fullres")
    for file in files:
        case = file.name.removesuffix(ending)
        assert (case in index.entries) != (f"/{case}: " in message), f"{case} must be stored or named, not both"
        if case in index.entries:
            assert read_header(index.entries[case].path)[0][1:] == index.entries[case].shape


# -------------------------------------------------------------------------------------------------------- pretraining


def only(content: Any) -> Any:
    return content["configurations"]["3d_fullres"]


PLAN_EDITS: list[tuple[Edit, str]] = [
    (lambda c: c.clear(), "no configurations"),
    (lambda c: c.pop("plans_name"), "lacks plans_name"),
    (lambda c: only(c).pop("patch_size"), "lacks patch_size"),
    (lambda c: only(c).pop("architecture"), "lacks architecture"),
    (lambda c: only(c).pop("data_identifier"), "lacks data_identifier"),
    (lambda c: only(c).update(patch_size="x"), "lacks or garbles something"),
    (lambda c: only(c).update(patch_size=[16, 16]), "needs a 3D configuration"),
    (lambda c: only(c).update(inherits_from="nope"), "Configuration nope in"),
    (lambda c: only(c).update(inherits_from="3d_fullres"), "inherits from itself"),
    (lambda c: c["configurations"].update({"3d_fullres": None}), "holds None"),
    (lambda c: only(c)["architecture"].update(network_class_name="no.such.Net"), "no.such.Net"),
    (lambda c: only(c)["architecture"]["arch_kwargs"].update(features_per_stage=[8]), "nnU-Net cannot build"),
    (lambda c: only(c)["architecture"]["arch_kwargs"].update(conv_op="torch.nn.Conv2d"), "needs a 3D network"),
]


@pytest.mark.parametrize(("edit", "message"), PLAN_EDITS)
def test_a_spoilt_plans_file_is_explained(workspace: Path, said: Said, edit: Edit, message: str) -> None:
    edit_json(workspace / "nnUNet_preprocessed" / DATASET / "nnsslPlans.json", edit)
    assert message in said.pretraining(workspace)


@pytest.mark.parametrize("name", ["nnsslPlans.json", "dataset.json", "nnsslPlans_3d_fullres/nnssl_index.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", "null", "\0"])
def test_a_garbled_file_is_named(workspace: Path, said: Said, name: str, content: str) -> None:
    (workspace / "nnUNet_preprocessed" / DATASET / name).write_text(content)
    assert Path(name).name in said.pretraining(workspace)


@pytest.mark.parametrize(
    ("key", "value"), [("shape", "x"), ("shape", [0, 1, 1]), ("to_world", [[float("nan")] * 4] * 4)]
)
def test_a_spoilt_index_entry_is_named(workspace: Path, said: Said, key: str, value: object) -> None:
    file = workspace / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres" / "nnssl_index.json"
    edit_json(file, lambda content: content["entries"]["case_00"].update({key: value}))
    assert f"{key} " in said.pretraining(workspace)


@pytest.mark.parametrize("spoil", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:2000])])
def test_a_case_lost_or_cut_after_preprocessing_is_named(
    workspace: Path, said: Said, spoil: Callable[[Path], object]
) -> None:
    for file in (workspace / "nnUNet_preprocessed" / DATASET).rglob("*.b2nd"):
        spoil(file)
    words = said.pretraining(workspace)
    assert "Case case_0" in words and "preprocess" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "seed=99999999999999999999"), "below 2^63"),
        (("--set", "patch_size=33,33,33"), "divisible by the network's total stride"),
        (("--set", "method.ratoi=1"), "Unknown key method.ratoi"),
        (("--name", "x" * 300), "Choose a shorter name"),
        (("-pretrained_weights", "nowhere.pth"), "there is no such file"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(
    prepared: Path, said: Said, words: tuple[str, ...], message: str
) -> None:
    assert message in said.pretraining(prepared, *words)


def test_a_data_set_given_twice_is_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["701", DATASET, "3d_fullres", "-tr", "TinyTrainer", "--workspace", str(prepared)]
    assert pretrain(words) == 2
    assert "given twice" in capsys.readouterr().err


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "list", "bomb", "old bomb", "no weights", "no tensors"])
def test_weights_that_are_none_are_refused_and_never_run(
    prepared: Path, tmp_path: Path, said: Said, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file, mark = tmp_path / "weights.pth", tmp_path / "mark"
    bomb = {"network_weights": Bomb(mark)}
    writers: dict[str, Callable[[], object]] = {
        "text": lambda: file.write_text("hello"),
        "empty": file.touch,
        "folder": file.mkdir,
        "list": lambda: torch.save([1], file),
        "bomb": lambda: torch.save(bomb, file),
        "old bomb": lambda: torch.save(bomb, file, _use_new_zipfile_serialization=False),
        "no weights": lambda: torch.save({"a": 1}, file),
        "no tensors": lambda: torch.save({"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": 3}}, file),
    }
    writers[kind]()
    assert "weights.pth" in said.pretraining(prepared, "--name", "w", "-pretrained_weights", str(file))
    make_raw_dataset(tmp_path / "other" / "nnUNet_raw", 4, 2, labels=True)
    assert plan_like([str(file), "-d", "4", "--workspace", str(tmp_path / "other")]) != 0
    assert "weights.pth" in " ".join(capsys.readouterr().err.split())
    assert not mark.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Broken(SSLTrainer\n", "Could not be read"),
        ("import nosuchmodule\nclass BrokenTrainer(SSLTrainer): ...\n", "No module named 'nosuchmodule'"),
        ("import sys\nsys.exit(0)\nclass BrokenTrainer(SSLTrainer): ...\n", "cannot be imported (SystemExit"),
        ("SSLTrainer = type('Trainer', (), {})\nclass BrokenTrainer(SSLTrainer): ...\n", "is no trainer"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_no_other(
    prepared: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.setenv("nnssl_extTrainer", str(tmp_path))
    words = said.pretraining(prepared, trainer="BrokenTrainer")
    assert message in words and "mine.py" in words
    assert find_trainer("MAETrainer").__name__ == "MAETrainer"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"recipe": 3}'])
def test_a_garbled_recipe_of_a_run_is_named(prepared: Path, said: Said, content: str) -> None:
    run = prepared / "nnUNet_results" / DATASET / "TinyTrainer__nnsslPlans__3d_fullres" / "fold_all--spoilt"
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(content)
    assert "recipe.json" in said.pretraining(prepared, "--name", "spoilt", "--c")


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    from nnssl.engine.weights import _copy
    from nnssl.errors import StateError

    layer = torch.nn.Linear(2, 1)
    weights = {f"encoder.{name}": torch.full_like(value, np.nan) for name, value in layer.state_dict().items()}
    with pytest.raises(StateError, match="no tensor of finite numbers"):
        _copy(layer, weights, "encoder.", tmp_path / "w.pth")
