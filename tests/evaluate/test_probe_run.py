"""`nnssl_probe`: the whole command on tiny cases, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.cli.probe import main
from nnssl.encoders.other import build_other
from nnssl.evaluate.features import preparation
from nnssl.evaluate.probe.run import PRETRAINED, UNTRAINED
from nnssl.evaluate.probe.target import Request, load
from nnssl.evaluate.untrained import untrained
from nnssl.export.other import other_content
from nnssl.planning.grid import case_plan
from tests.evaluate.labelled import blocks, write_case
from tests.export.weights import write_weights
from tests.tiny import tiny_plans, workspace_folders

DATASET = "Dataset004_Tiny"
QUICK = ["--set", "steps=2", "patches=2", "validate_every=1", "patch_size=16,16,16", "-device", "cpu"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases of five subjects, preprocessed, and weights of the same plan."""
    root = tmp_path_factory.mktemp("probe")
    where = workspace_folders(root)
    home = where.preprocessed / DATASET
    for index in range(6):
        write_case(home / "nnsslPlans_3d_fullres", f"c{index}", *blocks(index, (16, 18, 16)))
    (home / "nnsslPlans.json").write_text(json.dumps(tiny_plans(DATASET)))
    about = {"labels": {"background": 0, "one": 1, "two": 2}, "subjects": {"c0": "twin", "c1": "twin"}}
    (home / "dataset.json").write_text(json.dumps(about))
    write_weights(root / "w.pth", tiny_plans("Dataset745_Pre"))
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(template, tmp_path / "workspace")


def run(workspace: Path, *words: str) -> int:
    return main([str(workspace / "w.pth"), "-d", "4", "--workspace", str(workspace), *words])


@pytest.mark.pipeline
def test_the_command_probes_both_networks_and_goes_on_where_it_stopped(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace / "probe"
    assert run(workspace, *QUICK, "-o", str(out), "--folds", "0", "1") == 0
    report = json.loads((out / "report.json").read_text())
    assert report["question"]["maps"] == "encoder and decoder"
    assert set(report["networks"]) == {PRETRAINED, UNTRAINED}
    said = capsys.readouterr().out
    assert "240 features" not in said and "120 features a voxel" in said
    assert "was not checked" in said, "there is no raw data set to look for leaks in"
    trained, tested = set(), set()
    for number in ("0", "1"):
        fold = report["question"]["folds"][number]
        tested |= set(fold["test"])
        trained |= set(fold["train"])
        assert not {"c0", "c1"} & set(fold["test"]) or {"c0", "c1"} <= set(fold["test"]), "a subject is not split"
    assert set(report["networks"][PRETRAINED]["cases"]) == tested
    state = torch.load(out / "pretrained_fold0_heads.pth", weights_only=True)
    assert set(state) == {"linear", "non_linear"}
    first = (out / "pretrained_fold0.json").stat().st_mtime_ns
    (out / "untrained_fold1.json").unlink()
    assert run(workspace, *QUICK, "-o", str(out)) == 0
    assert (out / "pretrained_fold0.json").stat().st_mtime_ns == first
    again = json.loads((out / "report.json").read_text())
    assert set(again["networks"][PRETRAINED]["cases"]) == {f"c{index}" for index in range(6)}
    for case in tested:
        assert again["networks"][UNTRAINED]["cases"][case] == report["networks"][UNTRAINED]["cases"][case]
    other = [word.replace("steps=2", "steps=3") for word in QUICK]
    assert run(workspace, *other, "-o", str(out)) == 2
    assert "holds a probe of another checkpoint, data set or setting" in capsys.readouterr().err.replace("\n", " ")


def test_the_encoder_is_probed_on_request_where_the_file_has_a_decoder(workspace: Path) -> None:
    maps = {}
    for words in ((), ("--encoder",)):
        out = workspace / "".join(["probe", *words])
        assert run(workspace, *QUICK, "--no_untrained", "--folds", "0", "-o", str(out), *words) == 0
        maps[words] = json.loads((out / "report.json").read_text())["question"]["maps"]
    assert maps == {(): "encoder and decoder", ("--encoder",): "the encoder"}


def test_the_untrained_network_has_the_same_architecture_and_other_weights(workspace: Path) -> None:
    network = load(Request(weights=workspace / "w.pth", target="4"))
    fresh = untrained(network, seed=1)
    own, other = network.state_dict(), fresh.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in other.items()}
    assert not torch.equal(
        own["encoder.stages.0.0.convs.0.conv.weight"], other["encoder.stages.0.0.convs.0.conv.weight"]
    )
    assert torch.equal(
        untrained(network, seed=1).state_dict()["encoder.stages.0.0.convs.0.conv.weight"],
        other["encoder.stages.0.0.convs.0.conv.weight"],
    )
    encoder = load(Request(weights=workspace / "w.pth", target="4", encoder=True))
    assert (
        untrained(encoder, seed=0).channels
        == encoder.channels
        == load(Request(weights=workspace / "encoder.safetensors", target="4")).channels
    )
    assert preparation(encoder.weights) == case_plan(tiny_plans("Dataset745_Pre"), "3d_fullres")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "7"], "--folds takes numbers from 0 to 4, not 7"),
        (["--set", "step=3"], "Did you mean steps"),
        (["--set", "patch_size=20,16,16"], "patch_size (20, 16, 16) must be a multiple of (8, 8, 8)"),
        (["-p", "other"], "other.json is needed, but is not there"),
        (["-c", "3d_lowres"], "3d_lowres"),
        (["--which", "ema"], "no variant 'ema'"),
    ],
)
def test_mistakes_are_one_sentence(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(workspace, "-device", "cpu", "-o", str(workspace / "probe"), *words) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_bad_data_are_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = workspace / "nnUNet_preprocessed" / DATASET
    image, numbers = blocks(0, (16, 18, 16))

    def refused(message: str) -> None:
        assert run(workspace, *QUICK, "-o", str(workspace / "probe")) == 1
        assert message in " ".join(capsys.readouterr().err.split())

    for index in range(2, 6):
        write_case(home / "nnsslPlans_3d_fullres", f"c{index}", image, np.where(numbers == 2, 0, numbers))
    refused("has the class two, so that a head cannot learn it")
    (home / "splits_final.json").write_text(json.dumps([{"train": ["c0", "c2"], "val": ["c1"]}]))
    refused("Subject twin is both trained and tested on in fold 0")
    (home / "splits_final.json").write_text(json.dumps([{"train": ["c0", "c1"], "val": ["c3"]}]))
    refused("trains on 1 subject; 2 are needed")
    (home / "splits_final.json").unlink()
    shutil.rmtree(home / "nnsslPlans_3d_fullres")
    refused("holds no labelled case (CASE_seg.b2nd). Run: nnUNetv2_preprocess -d 4 -plans_name nnsslPlans")


def test_other_spacing_is_a_warning_and_other_channels_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = workspace / "nnUNet_preprocessed" / DATASET / "nnsslPlans.json"
    plan.write_text(json.dumps(tiny_plans(DATASET, kind="two")))
    assert run(workspace, *QUICK, "-o", str(workspace / "probe")) == 1
    assert "The weights take 1 channel(s) and Dataset004_Tiny has 2" in " ".join(capsys.readouterr().err.split())
    plan.write_text(json.dumps(tiny_plans(DATASET, spacing_mm=(3.0, 1.0, 1.0))))
    from nnssl.evaluate.probe.target import settle_target
    from nnssl.paths import folders

    request = Request(weights=workspace / "w.pth", target="4")
    warnings = settle_target(request, load(request), folders(workspace)).warnings
    assert any("spacing D H W in mm was [1.5, 1.25, 1.0], the target's is [3.0, 1.0, 1.0]" in one for one in warnings)
    other = tiny_plans(DATASET)
    other["foreground_intensity_properties_per_channel"]["0"]["mean"] = 0.0
    plan.write_text(json.dumps(other))
    warnings = settle_target(request, load(request), folders(workspace)).warnings
    assert any(one.startswith("The pretraining's CT intensity window was") for one in warnings)


def test_networks_that_nnunet_does_not_know_are_probed_too(tmp_path: Path) -> None:
    network = build_other("fpn3d", channels=1, options={"width": 4, "levels": 3})
    torch.save(other_content(network, tiny_plans("Dataset745_Pre"), "3d_fullres", 1), tmp_path / "fpn.pth")
    loaded = load(Request(weights=tmp_path / "fpn.pth", target="4"))
    first, again, other = (untrained(loaded, seed=seed) for seed in (0, 0, 1))
    assert loaded.channels == first.channels == (4, 8, 16)
    assert loaded.strides == first.strides
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = [made(image)[0] for made in (loaded, first, again, other)]
    assert torch.equal(maps[1], maps[2])
    assert not torch.equal(maps[1], maps[3])
    assert not torch.equal(maps[0], maps[1])
