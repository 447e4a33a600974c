"""Features of an image: prepared as in pretraining, seen in windows that fit together, from plain modules."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nnssl
from nnssl.cli.features import main
from nnssl.errors import DataError, ExportError
from nnssl.evaluate import tiling
from nnssl.evaluate.features import embed, preparation, prepare
from nnssl.evaluate.tiling import axis, pieces
from nnssl.planning.grid import case_plan
from nnssl.planning.preprocess import onto_grid
from nnssl.planning.reading import read_image
from tests.export.unets import network, stock_checkpoint, unet_plans
from tests.export.weights import write_weights
from tests.tiny import make_raw_dataset, tiny_plans


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published weights of both kinds and two scans at another spacing than the plan's."""
    root = tmp_path_factory.mktemp("features")
    write_weights(root / "checkpoint_final.pth", tiny_plans("Dataset745_Pre"))
    make_raw_dataset(root, 5, 2, spacing_mm=(2.0, 1.5, 1.5), shape=(24, 30, 34))
    return root


def scans(folder: Path) -> Path:
    return folder / "Dataset005_Tiny" / "imagesTr"


def test_importing_nnssl_loads_no_torch_and_names_are_complete() -> None:
    code = "import sys, nnssl; assert 'load_encoder' in dir(nnssl); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="has no attribute 'load_decoder'"):
        _ = nnssl.load_decoder


def test_both_files_of_a_run_give_the_trained_encoder_and_what_it_expects(tmp_path: Path) -> None:
    unet = write_weights(tmp_path / "checkpoint_final.pth", tiny_plans("Dataset745_Pre", residual=True))
    for name in ("checkpoint_final.pth", "encoder.safetensors"):
        encoder = nnssl.load_encoder(tmp_path / name)
        assert isinstance(encoder, nn.Module)
        own = unet.encoder.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in encoder.state_dict().items())
        assert encoder.stage_channels == encoder.channels == (8, 16, 32, 64)
        assert encoder.strides == ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))
        assert encoder.spacing_mm == (1.5, 1.25, 1.0)
        assert encoder.patch_size == (32, 32, 32)
        assert encoder.normalisation == ("CTNormalization",)
        assert encoder.intensities[0]["mean"] == 60.0
        assert (encoder.input_channels, encoder.channel_names) == (1, ("CT",))
        maps = encoder(torch.zeros(1, 1, 16, 16, 16))
        assert [tuple(level.shape[1:]) for level in maps] == [
            (8, 16, 16, 16), (16, 8, 8, 8), (32, 4, 4, 4), (64, 2, 2, 2),
        ]  # fmt: skip


def test_a_pyramid_needs_a_trained_decoder(tmp_path: Path) -> None:
    unet = write_weights(tmp_path / "checkpoint_final.pth", tiny_plans("Dataset745_Pre")).eval()
    pyramid = nnssl.load_pyramid(tmp_path / "checkpoint_final.pth")
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(pyramid(image), unet(image), strict=True))
    with pytest.raises(DataError, match=r"encoder\.safetensors holds no trained decoder"):
        nnssl.load_pyramid(tmp_path / "encoder.safetensors")


def test_a_stock_checkpoint_gives_its_network_too(tmp_path: Path) -> None:
    plans = unet_plans(stages=3)
    state = dict(network(plans).state_dict())
    torch.save(stock_checkpoint(plans, state), tmp_path / "w.pth")
    assert nnssl.load_pyramid(tmp_path / "w.pth").channels == (4, 6, 8)
    del state["encoder.stages.2.0.convs.0.conv.weight"], state["encoder.stages.2.0.convs.0.all_modules.0.weight"]
    torch.save(stock_checkpoint(plans, state), tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"does not hold what its own plan says: 1 tensors"):
        nnssl.load_encoder(tmp_path / "w.pth")


def test_an_image_is_prepared_as_preprocessing_prepared_it(folder: Path) -> None:
    file = scans(folder) / "case_00_0000.nii.gz"
    made = prepare([file], preparation(nnssl.load_encoder(folder / "checkpoint_final.pth").weights))
    plan = case_plan(tiny_plans("Dataset745_Pre"), "3d_fullres")
    expected = onto_grid(read_image([file], "SimpleITKIO"), plan)
    assert np.array_equal(made.data, expected.data)
    assert made.data.shape[1:] != read_image([file], "SimpleITKIO").data.shape[1:], "the spacing differs"
    with pytest.raises(DataError, match=r"take 1 channel\(s\), so 1 file\(s\) a case"):
        prepare([file, file], plan)


@pytest.mark.parametrize(
    ("side", "stride", "largest"), [(100, 16, 64), (1, 8, 32), (33, 8, 32), (160, 32, 64), (97, 8, 9)]
)
def test_cores_are_the_image_once_and_lie_inside_their_tiles(side: int, stride: int, largest: int) -> None:
    made = axis(side, stride, largest)
    covered = [cell for first, end in made.cores for cell in range(first, end)]
    assert covered == list(range(-(-side // stride)))
    for start, (first, end) in zip(made.starts, made.cores, strict=True):
        assert start <= first < end <= start + made.size


class Local(nn.Module):
    """A pyramid without context: mean of every cell; so windows must give what the whole image gives."""

    channels = (2, 2)
    strides = ((2, 2, 2), (4, 8, 4))

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.factor * nn.functional.avg_pool3d(image, step) for step in self.strides]


@pytest.mark.parametrize("shape", [(33, 50, 21), (8, 16, 8), (3, 5, 40)])
def test_windows_put_together_are_the_map_of_the_whole_image(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    local: Any = Local()
    local.patch_size = (16, 16, 16)
    image = torch.randn(2, *shape)
    found = embed(local, image, keep=(0, 1))
    padding = [amount for side, step in zip(shape[::-1], (4, 8, 4), strict=True) for amount in (0, -side % step)]
    whole = nn.functional.pad(image[None], padding, mode="replicate")
    with torch.no_grad():
        expected = local(whole)
    for level, step in enumerate(local.strides):
        size = [-(-side // s) for side, s in zip(shape, step, strict=True)]
        wanted = expected[level][0][:, : size[0], : size[1], : size[2]]
        assert torch.allclose(found.maps[level], wanted, atol=1e-6)
        assert torch.allclose(found.levels[level], wanted.mean(dim=(1, 2, 3)), atol=1e-6)
    assert found.vector.shape == (4,)


def test_one_window_gives_what_the_network_gives(folder: Path) -> None:
    encoder = nnssl.load_encoder(folder / "checkpoint_final.pth")
    image = torch.randn(1, 32, 32, 32)
    (piece,) = pieces(encoder, image, largest=(32, 32, 32))
    with torch.no_grad():
        maps = encoder(image[None])
    assert all(torch.equal(a, b[0]) for a, b in zip(piece.maps, maps, strict=True))


def test_the_command_writes_a_table_and_the_maps(folder: Path, tmp_path: Path) -> None:
    weights = str(folder / "encoder.safetensors")
    assert main([weights, str(scans(folder)), "-o", str(tmp_path / "out"), "--pyramid", "2", "3"]) == 0
    with (tmp_path / "out" / "features.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == ["case", "case_00", "case_01"]
    case = np.load(tmp_path / "out" / "case_00.npz", allow_pickle=False)
    assert case["vector"].tolist() == pytest.approx([float(value) for value in rows[1][1:]], rel=1e-6)
    assert case["level_channels"].tolist() == [8, 16, 32, 64]
    assert len(case["vector"]) == 120
    assert {"map_2", "map_3"} <= set(case.files)
    assert "map_0" not in case.files
    pooled = case["map_3"].astype(np.float32).mean(axis=(1, 2, 3))
    assert case["vector"][-64:] == pytest.approx(pooled, abs=2e-3)


def test_vectors_tell_scans_apart_and_do_not_depend_on_the_order(folder: Path, tmp_path: Path) -> None:
    files = [str(scans(folder) / f"case_0{index}_0000.nii.gz") for index in (1, 0)]
    weights = str(folder / "checkpoint_final.pth")
    assert main([weights, *files, "-o", str(tmp_path / "a")]) == 0
    assert main([weights, files[1], "-o", str(tmp_path / "b")]) == 0
    vectors = [np.load(tmp_path / path)["vector"] for path in ("a/case_00.npz", "b/case_00.npz", "a/case_01.npz")]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.nii.gz"], "nothing.nii.gz is not there"),
        (["SCAN", "SCAN"], "Two images are called case_00"),
        (["SCAN,SCAN"], "take 1 channel(s)"),
        (["SCAN", "--pyramid", "4"], "--pyramid takes levels from 0 to 3, not 4"),
        (["SCAN", "--which", "ema"], "no variant 'ema'; it holds default"),
        (["SCAN", "-device", "nonsense"], "-device nonsense cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    scan = str(scans(folder) / "case_00_0000.nii.gz")
    given = [word.replace("SCAN", scan) for word in words]
    assert main([str(folder / "checkpoint_final.pth"), *given, "-o", str(tmp_path / "out")]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_one_bad_image_does_not_cost_the_others_and_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    files = [str(tmp_path / "bad.nii.gz"), str(scans(folder) / "case_00_0000.nii.gz")]
    assert main([str(folder / "checkpoint_final.pth"), *files, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "1 of 2 images could not be used" in said.err
    assert "bad.nii.gz" in said.err
    assert (tmp_path / "out" / "features.csv").read_text().splitlines()[1].startswith("case_00,")


def test_weights_that_do_not_tell_the_preparation_are_refused(tmp_path: Path) -> None:
    plans = unet_plans(stages=3)
    del plans["image_reader_writer"]
    torch.save(stock_checkpoint(plans, dict(network(plans).state_dict())), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"how its images were prepared \(image_reader_writer missing\)"):
        preparation(nnssl.load_encoder(tmp_path / "w.pth").weights)


def test_the_examples_are_true() -> None:
    import doctest

    assert doctest.testmod(tiling).failed == 0
