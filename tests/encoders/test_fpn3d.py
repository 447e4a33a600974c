"""FPN3d as published: its size, its maps, what a voxel of a map sees; its files, which nnU-Net cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nnssl
from nnssl.encoders.fpn3d import FPN3d
from nnssl.encoders.other import build_other
from nnssl.errors import DataError, ExportError, PluginError
from nnssl.evaluate.features import embed, preparation
from nnssl.export.checkpoint import publish
from nnssl.export.other import for_nnunet
from nnssl.export.sources import read_any
from nnssl.method import Exported
from nnssl.testing_world import small_networks
from tests.export.weights import write_weights
from tests.tiny import tiny_plans


def small(**options: Any) -> FPN3d:
    torch.manual_seed(0)
    return FPN3d(1, **{"width": 4, "levels": 3, **options})


def test_it_has_the_published_number_of_parameters_and_channels() -> None:
    with torch.device("meta"):
        network = FPN3d(1)
    assert sum(p.numel() for p in network.parameters()) == 47_624_448
    assert network.channels == (16, 32, 64, 128, 256, 512)
    assert sum(network.channels) == 1008
    assert network.strides[-1] == (32, 32, 32)


def test_maps_halve_rounding_up_and_are_finest_first() -> None:
    maps = small()(torch.randn(1, 1, 9, 12, 14))
    assert [tuple(one.shape[1:]) for one in maps] == [(4, 9, 12, 14), (8, 5, 6, 7), (16, 3, 3, 4)]


def test_it_equals_the_formulas_written_out() -> None:
    network = small().double().eval()
    image = torch.randn(2, 1, 8, 8, 12, dtype=torch.float64)

    def block(part: Any, x: Tensor) -> Tensor:
        def norm(one: Any, y: Tensor) -> Tensor:
            mean, variance = (v.view(1, -1, 1, 1, 1) for v in (one.running.mean, one.running.variance))
            weight, bias = (v.view(1, -1, 1, 1, 1) for v in (one.weight, one.bias))
            return torch.relu((y - mean) / (variance + 1e-5).sqrt() * weight + bias)

        return x + part.conv2(norm(part.norm2, part.conv1(norm(part.norm1, x))))

    def level(parts: Any, x: Tensor) -> Tensor:
        for part in parts:
            x = block(part, x)
        return x

    for module in network.modules():
        if hasattr(module, "running"):
            module.running.mean.normal_()
            module.running.variance.uniform_(0.5, 2)
    first = level(network.down_levels[0], network.stem(image))
    second = level(network.down_levels[1], network.downs[0](F.max_pool3d(first, 2)))
    bottom = level(network.bottom, network.downs[1](F.max_pool3d(second, 2)))
    up = network.ups[1](bottom).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    finer = level(network.up_levels[1], up + network.skips[1](second))
    up = network.ups[0](finer).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    finest = level(network.up_levels[0], up + network.skips[0](first))
    for found, wanted in zip(network(image), (finest, finer, bottom), strict=True):
        torch.testing.assert_close(found, wanted)


def test_it_is_had_by_name_and_wrong_options_are_told() -> None:
    network = small_networks(channels=2).other("fpn3d", width=2, levels=2)
    assert isinstance(network, FPN3d)
    assert network.stem.in_channels == 2
    with pytest.raises(PluginError, match="does not take the options"):
        build_other("fpn3d", channels=1, options={"depth": 3})
    with pytest.raises(PluginError, match="at least 2 levels"):
        small(levels=1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[FPN3d, Path, str]:
    """A network, its file, and what was said when it was written."""
    path = tmp_path_factory.mktemp("fpn") / "checkpoint_final.pth"
    network = small()
    with torch.no_grad():
        network.bottom[0].norm1.running.mean.normal_()
    report = publish(
        path,
        exported=Exported(encoder=network, raw_window=(-1350.0, 1000.0)),
        plans=tiny_plans("Dataset745_Pre"),
        configuration="3d_fullres",
        dataset_json={"channel_names": {"0": "CT"}},
        channels=1,
        provenance={"trainer": "Vox2VecTrainer"},
        citations=[],
        seed=0,
        final=True,
    )
    return network, path, str(report)


def test_its_file_says_that_nnunet_cannot_take_it_and_who_can(published: tuple[FPN3d, Path, str]) -> None:
    network, path, said = published
    assert "nnU-Net cannot build this network" in said
    assert "nnssl.load_pyramid" in said
    card = (path.parent / "MODEL_CARD.md").read_text()
    assert "nnssl_features checkpoint_final.pth" in card
    assert "nnssl_plan_like" not in card
    assert not (path.parent / "encoder.safetensors").exists()
    pyramid = nnssl.load_pyramid(path)
    assert not pyramid.training
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for found, wanted in zip(pyramid(image), network.eval()(image), strict=True):
            assert torch.equal(found, wanted)
    network.train()
    assert pyramid.channels == (4, 8, 16)
    with pytest.raises(ExportError, match=r"fpn3d.*nnssl\.load_pyramid"):
        nnssl.load_encoder(path)


def test_commands_that_lead_to_nnunet_refuse_it(published: tuple[FPN3d, Path, str], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds the network fpn3d\. nnU-Net cannot build.*paper_unet"):
        for_nnunet(read_any(published[1]))
    write_weights(tmp_path / "checkpoint_final.pth", tiny_plans("Dataset745_Pre"))
    weights = read_any(tmp_path / "checkpoint_final.pth")
    assert for_nnunet(weights) is weights


def test_images_are_windowed_for_it_as_in_training(published: tuple[FPN3d, Path, str]) -> None:
    _, path, _ = published
    pyramid = nnssl.load_pyramid(path)
    assert pyramid.normalisation == ("CTNormalization",)
    plan = preparation(pyramid.weights)
    properties = pyramid.intensities[0]
    assert (properties["percentile_00_5"], properties["percentile_99_5"]) == (-1350, 1000)
    assert (properties["mean"], properties["std"]) == (-1350, 2350)
    assert plan.schemes
    found = embed(pyramid, torch.rand(1, 20, 18, 17), keep={0}, largest=(16, 16, 16))
    assert found.vector.shape == (28,)
    assert found.maps[0].shape == (4, 20, 18, 17)


def test_a_damaged_file_is_told(published: tuple[FPN3d, Path, str], tmp_path: Path) -> None:
    _, path, _ = published
    content = torch.load(path, weights_only=True)
    name = next(iter(content["network_weights"]))
    content["network_weights"][name] = torch.zeros(1)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ExportError, match="does not hold what it says"):
        nnssl.load_pyramid(tmp_path / "bad.pth")
    del content["nnssl_adaptation_plan"]["architecture_plans"]
    torch.save(content, tmp_path / "worse.pth")
    with pytest.raises(DataError, match="lacks or garbles"):
        read_any(tmp_path / "worse.pth")
