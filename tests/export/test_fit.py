"""Fitted weights start nnU-Net through its own loader, with every promised tensor in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nnssl.errors import DataError, ExportError, UsageError
from nnssl.export.checkpoint import publish
from nnssl.export.fit import Count, fit
from nnssl.export.fitted import write_fitted
from nnssl.export.proof import load_like_nnunet
from nnssl.export.read import Weights
from nnssl.export.sources import read_any
from nnssl.export.tensors import DECODER, ENCODER
from nnssl.method import Exported
from tests.export.unets import M_BLOCKS, network, stock_checkpoint, target_plan, unet_plans


def weights_of(folder: Path, plans: dict[str, Any]) -> Weights:
    """A stock nnU-Net checkpoint, read."""
    torch.save(stock_checkpoint(plans, dict(network(plans, seed=5).state_dict())), folder / "stock.pth")
    return read_any(folder / "stock.pth")


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Count, Count]] = {
    # source, target, encoder and decoder counts
    "plain, the same": ({}, {}, Count(24, 0, 0), Count(30, 0, 0)),
    "plain, anisotropic": ({}, {"flat": 2}, Count(22, 2, 0), Count(26, 4, 0)),
    "plain, from anisotropic": ({"flat": 2}, {}, Count(22, 2, 0), Count(26, 4, 0)),
    "plain, 2 channels": ({}, {"channels": 2}, Count(23, 1, 0), Count(30, 0, 0)),
    "plain, 4 channels, anisotropic": ({}, {"channels": 4, "flat": 1}, Count(23, 1, 0), Count(28, 2, 0)),
    "plain, 5 stages": ({}, {"stages": 5}, Count(20, 0, 0), Count(24, 0, 0)),
    "plain, 7 stages": ({}, {"stages": 7}, Count(24, 0, 4), Count(30, 0, 6)),
    "ResEnc M, 2 channels": ({"residual": True}, {"residual": True, "channels": 2}, Count(220, 1, 0), Count(30, 0, 0)),
    "ResEnc M, anisotropic": ({"residual": True}, {"residual": True, "flat": 1}, Count(218, 3, 0), Count(28, 2, 0)),
    "ResEnc M, 4 channels, anisotropic": (
        {"residual": True},
        {"residual": True, "channels": 4, "flat": 1},
        Count(218, 3, 0),
        Count(28, 2, 0),
    ),
    "ResEnc M, 5 stages": ({"residual": True}, {"residual": True, "stages": 5}, Count(173, 0, 0), Count(24, 0, 0)),
    "ResEnc L, anisotropic, 2 channels": (
        {"residual": True, "stages": 7},
        {"residual": True, "stages": 7, "flat": 2, "channels": 2},
        Count(260, 9, 0),
        Count(32, 4, 0),
    ),
    "ResEnc M to L": ({"residual": True}, {"residual": True, "stages": 7}, Count(221, 0, 48), Count(30, 0, 6)),
    "ResEnc L to M": ({"residual": True, "stages": 7}, {"residual": True}, Count(221, 0, 0), Count(30, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_targets_start_with_the_promised_tensors(tmp_path: Path, name: str) -> None:
    source, target, encoder, decoder = CASES[name]
    plans = [
        unet_plans(**options, blocks=M_BLOCKS if options.get("residual") else None) for options in (source, target)
    ]
    path = tmp_path / "fitted.pth"
    fitted, compared = write_fitted(path, weights_of(tmp_path, plans[0]), target_plan(plans[1]), min_transfer=0.8)
    assert fitted.count(ENCODER) == encoder
    assert fitted.count(DECODER) == decoder
    fresh = network(plans[1], classes=5, seed=9)
    load_like_nnunet(fresh, path)
    state = fresh.state_dict()
    assert all(torch.equal(state[tensor], value) for tensor, value in fitted.tensors.items())
    aliases = sum(tensor.startswith("encoder.") for tensor in fitted.tensors)
    assert compared == len(fitted.tensors) + aliases


def test_thick_kernels_give_the_output_of_flat_ones_wherever_they_replace_them(tmp_path: Path) -> None:
    """1x3x3 -> 3x3x3 in the whole encoder: same strides, so every stage gives the same maps."""
    flat, thick = unet_plans(stages=4), unet_plans(stages=4)
    flat["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["kernel_sizes"] = [[1, 3, 3]] * 4
    source, target = network(flat, seed=1), network(thick, seed=2)
    fitted = fit(source.state_dict(), target, decoder=True)
    target.load_state_dict(fitted.tensors, strict=False)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        maps = source.get_submodule("encoder")(image), target.get_submodule("encoder")(image)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*maps, strict=True))


def test_a_whole_network_on_repeated_channels_gives_what_it_gave_on_one() -> None:
    source, target = network(unet_plans(stages=4), seed=1), network(unet_plans(stages=4, channels=4), seed=2)
    target.load_state_dict(fit(source.state_dict(), target, decoder=True).tensors, strict=False)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        maps = source.get_submodule("encoder")(image), target.get_submodule("encoder")(image.expand(-1, 4, -1, -1, -1))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*maps, strict=True))


def test_shortcuts_are_found_where_a_stage_loses_its_stride() -> None:
    """nnU-Net puts a pooling before a shortcut's convolution only where there is a stride: skip.1 becomes skip.0."""
    plans, still = unet_plans(residual=True, stages=3), unet_plans(residual=True, stages=3)
    still["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"][1] = [1, 1, 1]
    fitted = fit(network(plans).state_dict(), network(still), decoder=True)
    assert fitted.count(ENCODER).fresh == 0


def test_other_widths_stay_fresh_and_are_refused(tmp_path: Path) -> None:
    wide = unet_plans(features=[4, 6, 8, 12, 12, 12])
    with pytest.raises(ExportError, match=r"Only 50 % .*4 fresh: 10 -> 12 features in encoder\.stages\.3"):
        write_fitted(tmp_path / "f.pth", weights_of(tmp_path, unet_plans()), target_plan(wide))
    assert not (tmp_path / "f.pth").exists()


def test_the_share_that_must_transfer_can_be_lowered(tmp_path: Path) -> None:
    source, deeper = weights_of(tmp_path, unet_plans(stages=5)), target_plan(unet_plans(stages=7))
    with pytest.raises(ExportError, match="Only 71 %"):
        write_fitted(tmp_path / "f.pth", source, deeper)
    fitted, _ = write_fitted(tmp_path / "f.pth", source, deeper, min_transfer=0.7)
    assert fitted.count(ENCODER) == Count(20, 0, 8)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    residual = target_plan(unet_plans(residual=True))
    with pytest.raises(ExportError, match=r"Only 0 %.*nnssl_plan_like"):
        write_fitted(tmp_path / "f.pth", weights_of(tmp_path, unet_plans()), residual)


def test_weights_without_our_names_are_refused() -> None:
    with pytest.raises(ExportError, match=r"no tensor called encoder\.stages.*first: blocks\.0"):
        fit({"blocks.0.weight": torch.zeros(1)}, network(unet_plans(stages=3)), decoder=True)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, unet_plans(stages=4))
    weights.tensors["encoder.stages.1.0.convs.0.conv.weight"][0] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        write_fitted(tmp_path / "f.pth", weights, target_plan(unet_plans(stages=4)))


def test_channels_can_be_chosen_and_mistakes_are_told(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, unet_plans(stages=4, channels=3))
    target = target_plan(unet_plans(stages=4, channels=2))
    fitted, _ = write_fitted(tmp_path / "f.pth", weights, target, channels=[2, 0])
    key = "encoder.stages.0.0.convs.0.conv.weight"
    assert torch.equal(fitted.tensors[key], weights.tensors[key][:, [2, 0]])
    with pytest.raises(UsageError, match="0 to 2"):
        write_fitted(tmp_path / "f.pth", weights, target, channels=[3, 0])


@pytest.mark.parametrize("form", ["nnssl", "safetensors"])
def test_encoder_files_hold_what_they_promise_and_can_be_read_again(tmp_path: Path, form: Any) -> None:
    weights = weights_of(tmp_path, unet_plans(residual=True, stages=4))
    path = tmp_path / ("f.safetensors" if form == "safetensors" else "f.pth")
    fitted, _ = write_fitted(path, weights, target_plan(unet_plans(residual=True, stages=4, channels=2)), form=form)
    again = read_any(path)
    assert all(torch.equal(value, fitted.tensors[name]) for name, value in again.tensors.items())
    assert {name.split(".")[0] for name in again.tensors} == {"encoder"}
    assert again.channels == 2
    assert again.provenance["transferred"]["decoder"] == 0
    if form == "safetensors":
        assert len(load_file(path)) == fitted.count(ENCODER).exact + 1


def test_a_fitted_file_still_tells_at_which_spacing_and_intensities_it_learned(tmp_path: Path) -> None:
    target = unet_plans("Dataset004_T", stages=4, channels=2)
    target["configurations"]["3d_fullres"].update(spacing=[5.0, 2.0, 2.0], patch_size=[16, 64, 64])
    write_fitted(tmp_path / "f.pth", weights_of(tmp_path, unet_plans(stages=4)), target_plan(target))
    again = read_any(tmp_path / "f.pth")
    assert again.configuration["spacing"] == [1.5, 1.25, 1.0]
    assert again.configuration["patch_size"] == [16, 64, 64]
    assert again.configuration["normalization_schemes"] == ["CTNormalization"] * 2
    assert sorted(again.plans["foreground_intensity_properties_per_channel"]) == ["0", "1"]
    assert again.provenance["fitted_to"]["dataset"] == "Dataset004_T"
    assert again.provenance["channel_names"] == {"0": "CT", "1": "CT"}


def test_an_untrained_decoder_is_neither_transferred_nor_counted(tmp_path: Path) -> None:
    plans = unet_plans(stages=4)
    trained = network(plans, seed=3).get_submodule("encoder")
    student = network(plans, seed=4).get_submodule("encoder")
    publish(
        tmp_path / "w.pth",
        exported=Exported(encoder=trained, variants={"teacher": (trained, None), "student": (student, None)}),
        plans=plans,
        configuration="3d_fullres",
        dataset_json={"channel_names": {"0": "CT"}},
        channels=1,
        provenance={"trainer": "DeSDTrainer"},
        citations=[],
        seed=1,
        final=True,
    )
    target = target_plan(unet_plans(stages=4, flat=1))
    fitted, _ = write_fitted(tmp_path / "f.pth", read_any(tmp_path / "w.pth"), target)
    assert fitted.count(DECODER) == Count(0, 0, 18)
    key = "encoder.stages.2.0.convs.0.conv.weight"
    assert torch.equal(fitted.tensors[key], trained.state_dict()[key.removeprefix("encoder.")])
    other, _ = write_fitted(tmp_path / "g.pth", read_any(tmp_path / "w.pth", which="student"), target)
    assert torch.equal(other.tensors[key], student.state_dict()[key.removeprefix("encoder.")])
    same = read_any(tmp_path / "w.pth", which="teacher").tensors
    assert torch.equal(same[key], trained.state_dict()[key.removeprefix("encoder.")])
    with pytest.raises(DataError, match=r"no variant 'ema'; it holds default, teacher, student"):
        read_any(tmp_path / "w.pth", which="ema")


def test_a_variant_equal_to_the_default_takes_no_room(tmp_path: Path) -> None:
    plans = unet_plans(stages=4, features=[16, 32, 48, 64])
    trained = network(plans, seed=3).get_submodule("encoder")
    sizes = []
    for variants in ({}, {"teacher": (trained, None)}):
        publish(
            tmp_path / "w.pth",
            exported=Exported(encoder=trained, variants=variants),
            plans=plans,
            configuration="3d_fullres",
            dataset_json={"channel_names": {"0": "CT"}},
            channels=1,
            provenance={},
            citations=[],
            seed=1,
            final=True,
        )
        sizes.append((tmp_path / "w.pth").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]
