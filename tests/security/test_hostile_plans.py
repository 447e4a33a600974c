"""A plan that came with a stranger's weights names layers, files and sizes; none of them may do harm."""

from __future__ import annotations

import json
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import nnssl
from nnssl.cli.doctor import main as doctor
from nnssl.cli.plan_like import main as plan_like
from nnssl.cli.pretrain import main as pretrain
from nnssl.errors import DataError, NnsslError, PlanError
from nnssl.export.read import read_weights
from nnssl.export.sources import read_any
from nnssl.nnunet import build_network, normaliser, resampling_function
from nnssl.paths import VARIABLES
from tests.export.weights import write_weights
from tests.tiny import tiny_architecture, tiny_plans

UNETS = "dynamic_network_architectures.architectures.unet"
EVIL_NAMES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "hostile_module.Layer",
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.functional.relu",
    "torch.nn.parallel.distributed.os.system",
    f"{UNETS}.np.load",
    f"{UNETS}.PlainConvUNet.__init__.__globals__",
    "torch.nn.LeakyReLU; import os",
    "../../hostile_module",
    "",
    5,
    ["os.system"],
]


@pytest.fixture
def hostile_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that leaves a mark when it is imported."""
    mark = tmp_path / "imported"
    body = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Layer: pass\nclass PlainConvUNet: pass\n"
    (tmp_path / "hostile_module.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark
    sys.modules.pop("hostile_module", None)


@pytest.mark.parametrize("key", ["conv_op", "norm_op", "nonlin"])
@pytest.mark.parametrize("name", EVIL_NAMES, ids=str)
def test_a_layer_is_a_layer_or_refused(hostile_module: Path, key: str, name: object) -> None:
    architecture = tiny_architecture()
    architecture["arch_kwargs"][key] = name
    with pytest.raises(PlanError, match=r"only networks of dynamic_network_architectures and layers of torch\.nn"):
        build_network(architecture, channels=1, classes=2)
    assert not hostile_module.exists()


@pytest.mark.parametrize("name", [*EVIL_NAMES, "hostile_module.PlainConvUNet", "torch.nn.Linear"], ids=str)
def test_a_network_is_one_of_nnunets_or_refused(hostile_module: Path, name: object) -> None:
    with pytest.raises(PlanError, match="only networks of"):
        build_network({**tiny_architecture(), "network_class_name": name}, channels=1, classes=2)
    assert not hostile_module.exists()


def test_a_command_in_a_layers_arguments_is_not_run(tmp_path: Path) -> None:
    """`nonlin(**nonlin_kwargs)` is what a network's builder calls."""
    architecture, mark = tiny_architecture(), tmp_path / "mark"
    architecture["arch_kwargs"] |= {"nonlin": "subprocess.Popen", "nonlin_kwargs": {"args": ["touch", str(mark)]}}
    with pytest.raises(PlanError):
        build_network(architecture, channels=1, classes=2)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_stages": 10**9}, "asks for 1000000000"),
        ({"n_conv_per_stage": [10**9] * 4}, "asks for 1000000000"),
        ({"features_per_stage": [8] * 1000}, "lists up to 64"),
        ({"features_per_stage": [float("nan")] * 4}, "asks for nan"),
        ({"features_per_stage": [4096] * 4, "kernel_sizes": [[9, 9, 9]] * 4}, "thousand million parameters"),
        ({"features_per_stage": [-8] * 4}, "cannot build the network"),
        ({"features_per_stage": "8"}, "cannot build the network"),
        ({"nonlin_kwargs": {"no": "such"}}, "cannot build the network"),
    ],
)
def test_sizes_beyond_all_networks_are_refused_before_memory_is_taken(changed: dict[str, Any], message: str) -> None:
    architecture = tiny_architecture()
    architecture["arch_kwargs"] |= changed
    with pytest.raises(PlanError, match=message):
        build_network(architecture, channels=1, classes=2)


def test_the_check_draws_nothing_and_changes_no_initial_value() -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    block = tiny_architecture(residual=True)
    torch.manual_seed(3)
    ours, after = build_network(block, channels=1, classes=2).state_dict(), torch.rand(1)
    torch.manual_seed(3)
    name, arguments, imports = block["network_class_name"], block["arch_kwargs"], block["_kw_requires_import"]
    theirs = get_network_from_plans(name, arguments, imports, 1, 2, allow_init=True, deep_supervision=False)
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("name", ["np", "os", "partial", "torch", "OrderedDict", "../../x", "ABC"])
def test_names_of_nnunets_own_functions_lead_to_nothing_else(name: str) -> None:
    with pytest.raises(PlanError, match="does not have"):
        normaliser(name)
    with pytest.raises(PlanError, match="does not have"):
        resampling_function(name, {})


# --------------------------------------------------------------------------------------------- whole files


def spoilt(path: Path, change: Any) -> Path:
    """Weights whose description was changed by `change(adaptation plan, its configuration)`."""
    write_weights(path, tiny_plans("Dataset745_Pre"))
    content = torch.load(path, weights_only=True)
    about = deepcopy(content["nnssl_adaptation_plan"])
    (configuration,) = about["pretrain_plan"]["configurations"].values()
    change(about, configuration)
    torch.save({**content, "nnssl_adaptation_plan": about}, path)
    return path


def evil_layers(about: dict[str, Any], configuration: dict[str, Any]) -> None:
    """Both places that hold the architecture."""
    evil = {"nonlin": "subprocess.Popen", "nonlin_kwargs": {"args": ["touch", "mark"]}}
    about["architecture_plans"]["arch_kwargs"] |= evil
    configuration["architecture"]["arch_kwargs"] |= evil


@pytest.fixture
def workspace(tiny_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with nothing outside it that a command may write to."""
    root = Path(shutil.copytree(tiny_workspace, tmp_path / "workspace"))
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(root / variable))
    monkeypatch.chdir(tmp_path)
    return root


def test_weights_with_evil_layers_are_refused_and_no_plan_is_written(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = spoilt(tmp_path / "w.pth", evil_layers)
    with pytest.raises(NnsslError, match=r"subprocess\.Popen"):
        nnssl.load_encoder(file)
    plans = sorted(workspace.rglob("*Plans*.json"))
    assert plan_like([str(file), "-d", "4"]) != 0
    assert "subprocess.Popen" in capsys.readouterr().err
    assert sorted(workspace.rglob("*Plans*.json")) == plans and not (tmp_path / "mark").exists()


def test_a_plans_file_with_evil_layers_is_refused_by_training_and_by_the_doctor(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("745", "004"):
        file = workspace / "nnUNet_preprocessed" / f"Dataset{number}_Tiny" / "nnsslPlans.json"
        plans = json.loads(file.read_text())
        evil = {"nonlin": "subprocess.Popen", "nonlin_kwargs": {"args": ["touch", "mark"]}}
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= evil
        file.write_text(json.dumps(plans))
    short = ("--set", "epochs=1", "steps_per_epoch=1", "batch_size=2")
    assert pretrain(["745", "3d_fullres", "-tr", "MAETrainer", "-device", "cpu", *short]) == 1
    assert "subprocess.Popen" in capsys.readouterr().err
    write_weights(tmp_path / "w.pth", tiny_plans("Dataset745_Pre"))
    assert doctor([str(tmp_path / "w.pth"), "-d", "4", "-p", "nnsslPlans"]) == 1
    assert "subprocess.Popen" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


NAMES = ["../../x", "/etc/x", "$(touch mark)", "a\nb", "a\0b", "", "`x`", "; rm -r x", "..", "-p", 7, None]


@pytest.mark.parametrize("key", ["plans_name", "dataset_name"])
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_in_a_file_becomes_no_path_and_no_command(tmp_path: Path, key: str, name: object) -> None:
    file = spoilt(tmp_path / "w.pth", lambda about, _: about["pretrain_plan"].update({key: name}))
    for read in (read_weights, read_any):
        with pytest.raises(DataError, match=f"garbles '{key}'"):
            read(file)


def test_a_long_name_is_refused_where_it_would_become_a_file(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = spoilt(tmp_path / "w.pth", lambda about, _: about["pretrain_plan"].update(plans_name="x" * 300))
    assert plan_like([str(file), "-d", "4"]) != 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda about, _: about.update(pretrain_num_input_channels=10**9), "pretrain_num_input_channels"),
        (lambda about, _: about.update(pretrain_num_input_channels="1"), "pretrain_num_input_channels"),
        (lambda about, _: about.update(pretrain_plan=[]), "configurations"),
        (lambda about, _: about["pretrain_plan"].update(configurations={"a": 3}), "configurations"),
        (lambda about, _: about["architecture_plans"].update(arch_kwargs="x"), "arch_kwargs"),
        (lambda about, _: about["architecture_plans"].update(arch_class_name=None), "arch_class_name"),
        (lambda about, _: about["architecture_plans"].update(arch_kwargs_requiring_import=3), "requiring_import"),
        (lambda _, configuration: configuration.update(spacing=[0, 1, 1]), "spacing"),
        (lambda _, configuration: configuration.update(spacing=[float("nan"), 1, 1]), "spacing"),
        (lambda _, configuration: configuration.update(patch_size="big"), "patch_size"),
        (lambda _, configuration: configuration.update(normalization_schemes=[3]), "normalization_schemes"),
    ],
)
def test_a_garbled_description_is_named(tmp_path: Path, change: Any, key: str) -> None:
    file = spoilt(tmp_path / "w.pth", change)
    with pytest.raises(DataError, match=key):
        read_weights(file)
    with pytest.raises(DataError, match=r"w\.pth"):
        read_any(file)
