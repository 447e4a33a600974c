"""The doctor names what does not fit, what it costs and what mends it, for files of every known maker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.cli.doctor import main
from nnssl.errors import DataError
from nnssl.export.doctor import Diagnosis, diagnose
from nnssl.export.read import load_content
from nnssl.export.rows import Commands
from nnssl.export.sources import OURS, PEER, STOCK, read_any
from nnssl.export.target_plan import with_orientation
from tests.export.unets import network, stock_checkpoint, target_plan, unet_plans
from tests.export.weights import write_weights
from tests.tiny import tiny_plans, workspace_folders

COMMANDS = Commands(plan_like="nnssl_plan_like W -d 4", export="nnssl_export W -d 4")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "checkpoint_final.pth"
    write_weights(path, unet_plans(stages=4))
    return path


def against(path: Path, plans: dict[str, Any]) -> Diagnosis:
    return diagnose(read_any(path), target_plan(plans), COMMANDS)


def wrong(found: Diagnosis) -> set[str]:
    return {row.what for row in found.rows if row.verdict == "no"}


def test_the_same_plan_fits(ours: Path) -> None:
    found = against(ours, unet_plans(stages=4))
    assert found.fits
    assert found.maker == OURS
    assert found.encoder.share == found.decoder.share == 1
    assert {row.verdict for row in found.rows} == {"fits"}


def edited(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> dict[str, Any]:
    plans = unet_plans(stages=4)
    change(plans, plans["configurations"]["3d_fullres"])
    return plans


CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "stages": (
        unet_plans(stages=5),
        {"stages", "features", "convolutions a stage", "decoder convolutions", "kernels", "strides"},
    ),
    "features": (unet_plans(stages=4, features=[4, 6, 8, 12]), {"features"}),
    "anisotropy": (unet_plans(stages=4, flat=1), {"kernels", "strides"}),
    "channels": (unet_plans(stages=4, channels=2), {"input channels"}),
    "spacing": (edited(lambda plans, chosen: chosen.update(spacing=[5.0, 2.0, 1.0])), {"spacing mm"}),
    "normalisation": (
        edited(lambda plans, chosen: chosen.update(normalization_schemes=["ZScoreNormalization"])),
        {"normalisation 0"},
    ),
    "statistics": (
        edited(lambda plans, chosen: plans["foreground_intensity_properties_per_channel"]["0"].update(mean=500.0)),
        {"CT statistics 0"},
    ),
    "axes": (edited(lambda plans, chosen: plans.update(transpose_forward=[2, 0, 1])), {"axis order"}),
    "activation": (
        edited(lambda plans, chosen: chosen["architecture"]["arch_kwargs"].update(nonlin="torch.nn.ReLU")),
        {"nonlinearity"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_mismatch_is_named_with_its_consequence_and_fix(ours: Path, name: str) -> None:
    plans, expected = CHANGES[name]
    found = against(ours, plans)
    assert wrong(found) == expected
    assert not found.fits
    assert all(row.consequence and row.fix for row in found.rows if row.verdict == "no")


def test_strides_alone_load_in_silence_and_are_told(ours: Path) -> None:
    """nnU-Net's loader looks at shapes; an encoder's do not depend on its strides."""
    plans = unet_plans(stages=4)
    plans["configurations"]["3d_fullres"]["spacing"] = [5.0, 2.0, 1.0]
    found = against(ours, plans)
    assert not found.refused
    assert not found.fits


def test_another_architecture_transfers_nothing_and_says_what_to_do(ours: Path) -> None:
    found = against(ours, unet_plans(stages=4, residual=True))
    row = next(row for row in found.rows if row.what == "architecture")
    assert (row.weights, row.target, row.fix) == ("PlainConvUNet", "ResidualEncoderUNet", "nnssl_plan_like W -d 4")
    assert found.encoder.share == 0
    assert "names are missing, first encoder.stem" in found.refused


@pytest.mark.parametrize(
    ("lies", "verdict", "words"),
    [
        ("SPL", "fits", ""),
        ("SPR", "note", "along W the body is mirrored"),
        ("IAL", "note", "along D and H"),
        ("LPS", "no", "other axes"),
        (None, "fits", ""),
    ],
)
def test_scans_that_lie_otherwise_than_learned_are_told(
    tmp_path: Path, ours: Path, lies: str | None, verdict: str, words: str
) -> None:
    content = torch.load(ours, weights_only=True)
    content["provenance"]["data"] = {"orientation": "SPL"}
    torch.save(content, tmp_path / "w.pth")
    target = replace(target_plan(unet_plans(stages=4)), orientation=lies)
    rows = diagnose(read_any(tmp_path / "w.pth"), target, COMMANDS).rows
    row = next(row for row in rows if row.what in ("orientation", "axis order"))
    assert (row.what == "axis order") == (lies is None)
    assert row.verdict == verdict
    assert words in row.consequence


def test_a_weights_files_word_about_its_scans_may_be_nonsense(tmp_path: Path, ours: Path) -> None:
    for nonsense in ("SPP", "up", 7, ["S", "P", "L"]):
        content = torch.load(ours, weights_only=True)
        content["provenance"]["data"] = {"orientation": nonsense}
        torch.save(content, tmp_path / "w.pth")
        target = replace(target_plan(unet_plans(stages=4)), orientation="SPL")
        assert "axis order" in {row.what for row in diagnose(read_any(tmp_path / "w.pth"), target, COMMANDS).rows}


def test_how_the_data_set_lies_is_read_from_its_scans(tiny_workspace: Path) -> None:
    where = workspace_folders(tiny_workspace)
    plans = tiny_plans("Dataset004_Tiny")
    for order, expected in (([0, 1, 2], "SPL"), ([2, 0, 1], "LSP")):
        target = replace(target_plan({**plans, "transpose_forward": order}), orientation=None)
        assert with_orientation(target, "Dataset004_Tiny", where).orientation == expected
    assert with_orientation(target, "Dataset999_Gone", where).orientation is None


def test_a_small_difference_of_spacing_is_a_note(ours: Path) -> None:
    found = against(ours, edited(lambda plans, chosen: chosen.update(spacing=[1.5, 1.25, 1.3])))
    assert next(row for row in found.rows if row.what == "spacing mm").verdict == "note"
    assert found.fits


def test_stock_checkpoints_are_read_without_pickle(tmp_path: Path) -> None:
    plans = unet_plans(stages=4)
    torch.save(stock_checkpoint(plans, dict(network(plans).state_dict())), tmp_path / "checkpoint_final.pth")
    found = against(tmp_path / "checkpoint_final.pth", plans)
    assert found.maker == STOCK
    assert found.fits


def peer_content(plans: dict[str, Any], *, plan: bool = True) -> dict[str, Any]:
    """The least that the peer's contract asks for, as it writes it: no schemes, encoder tensors only."""
    block = plans["configurations"]["3d_fullres"]["architecture"]
    state = {name: value for name, value in network(plans).state_dict().items() if name.startswith("encoder.")}
    adaptation = {
        "architecture_plans": {
            "arch_class_name": block["network_class_name"],
            "arch_kwargs": block["arch_kwargs"],
            "arch_kwargs_requiring_import": block["_kw_requires_import"],
        },
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1.5, 1.25, 1.0], "patch_size": [32, 32, 32]}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [32, 32, 32],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv"],
        "key_to_lpe": None,
    }
    return {"network_weights": state, "nnssl_adaptation_plan": adaptation} if plan else {"network_weights": state}


@pytest.mark.parametrize("beside", [False, True], ids=["file", "folder"])
def test_the_peers_weights_are_read_as_a_file_and_as_a_downloaded_folder(tmp_path: Path, beside: bool) -> None:
    plans = unet_plans(stages=4, residual=True)
    torch.save(peer_content(plans, plan=not beside), tmp_path / "checkpoint_final.pth")
    if beside:
        (tmp_path / "adaptation_plan.json").write_text(json.dumps(peer_content(plans)["nnssl_adaptation_plan"]))
    found = against(tmp_path if beside else tmp_path / "checkpoint_final.pth", plans)
    assert found.maker == PEER
    assert found.encoder.share == 1
    assert found.decoder.share == 0
    assert "names are missing, first decoder" in found.refused
    assert {row.what for row in found.rows if row.verdict == "unknown"} == {"normalisation", "axis order"}


def test_the_peers_bare_name_of_an_architecture_is_understood(tmp_path: Path) -> None:
    content = peer_content(unet_plans(stages=4, residual=True))
    content["nnssl_adaptation_plan"]["architecture_plans"] = {
        "arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None,
    }  # fmt: skip
    torch.save(content, tmp_path / "w.pth")
    assert read_any(tmp_path / "w.pth").architecture["arch_kwargs"]["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]
    content["nnssl_adaptation_plan"]["architecture_plans"]["arch_class_name"] = "PrimusM"
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="PrimusM network; only nnU-Net's convolutional"):
        read_any(tmp_path / "w.pth")


def test_numpy_numbers_of_every_kind_become_plain_ones(tmp_path: Path) -> None:
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", ">f4", ">i8")
    values = [np.dtype(kind).type(1) if kind[0] != ">" else np.array([1], kind)[0] for kind in kinds]
    torch.save({"values": values, "minus": np.int16(-300), "wide": np.float64(1e300)}, tmp_path / "w.pth")
    content = load_content(tmp_path / "w.pth")
    assert content["values"] == [1] * len(kinds)
    assert {type(value) for value in content["values"]} == {float, int, bool}
    assert (content["minus"], content["wide"]) == (-300, 1e300)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.target),)


NOT_NUMBERS = [
    np.arange(3), np.datetime64("2020-01-01"), np.array(["a"], dtype=object), np.dtype("O"), np.dtype([("a", "f4")]),
    np.str_("a"), np.complex64(1),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_only_single_numpy_numbers_are_let_through(tmp_path: Path, value: object) -> None:
    torch.save({"network_weights": {}, "x": value}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="without running code"):
        read_any(tmp_path / "w.pth")


def test_no_code_of_a_stock_like_file_runs(tmp_path: Path) -> None:
    plans = unet_plans(stages=3)
    content = stock_checkpoint(plans, {})
    content["logging"] = Bomb(tmp_path / "boom")
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="without running code"):
        read_any(tmp_path / "w.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"network_weights": {}}, "says nothing of the network they are for"),
        ({"network_weights": {}, "init_args": {"plans": {}, "configuration": "x"}}, "do not hold a plan"),
        ({"network_weights": {}, "nnssl_adaptation_plan": {"architecture_plans": 3}}, "lacks or garbles"),
        ({"state_dict": {}}, "no 'network_weights'"),
    ],
)
def test_files_that_do_not_say_what_they_are_get_a_sentence(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match=message):
        read_any(tmp_path / "w.pth")


def workspace(root: Path, plans: dict[str, Any]) -> list[str]:
    folder = root / "nnUNet_preprocessed" / "Dataset004_T"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0}}))
    return ["-d", "4", "--workspace", str(root)]


def test_the_command_prints_the_table_and_tells_by_its_exit_code(
    tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")  # the command sets them; they are put back after the test
    options = workspace(tmp_path / "fits", unet_plans("Dataset004_T", stages=4))
    assert main([str(ours), *options]) == 0
    assert "It fits" in capsys.readouterr().out
    options = workspace(tmp_path / "not", unet_plans("Dataset004_T", stages=4, flat=1))
    assert main([str(ours), *options]) == 1
    said = capsys.readouterr().out
    assert "NO  kernels" in said
    assert f"nnssl_export {ours} -d 4 -p nnUNetPlans -c 3d_fullres" in said
    assert "encoder  100 % of 16 (15 exact, 1 adapted, 0 fresh)" in said
    assert f"fix: nnssl_plan_like {ours} -d 4 (exact)  or  nnssl_export" in said
    torch.save(stock_checkpoint(unet_plans(), dict(network(unet_plans()).state_dict())), tmp_path / "stock.pth")
    assert main([str(tmp_path / "stock.pth"), *options]) == 1
    assert "nnssl_plan_like" not in capsys.readouterr().out, "it reads files of nnssl only"
    assert main([str(ours), *options, "-p", "Nothing"]) == 1
    assert "Nothing.json does not exist; there: nnUNetPlans" in " ".join(capsys.readouterr().err.split())
