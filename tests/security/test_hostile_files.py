"""Whatever lies under the name of a weights file, every command refuses it in a sentence and nothing in it is run."""

from __future__ import annotations

import importlib
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnssl import compat
from nnssl.engine.checkpoint import read_checked
from nnssl.errors import DataError, NnsslError, StateError
from nnssl.export.read import load_content
from nnssl.export.sources import read_any
from nnssl.paths import VARIABLES
from tests.export.weights import write_weights
from tests.security.hostile import bombs, readers
from tests.tiny import tiny_plans

pytestmark = pytest.mark.pipeline  # whole commands in processes of their own

KINDS = tuple(bombs(Path()))
COMMANDS = tuple(readers(Path(), Path()))


@pytest.fixture(scope="module")
def workspace(tiny_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tiny data sets, raw and preprocessed, and a table of images with classes."""
    root = Path(shutil.copytree(tiny_workspace, tmp_path_factory.mktemp("hostile") / "workspace"))
    images = sorted((root / "nnUNet_raw" / "Dataset004_Tiny" / "imagesTr").iterdir())
    rows = [f"{image},{index % 2},{index}" for index, image in enumerate(images)]
    (root / "classes.csv").write_text("\n".join(["path,label,subject", *rows]) + "\n")
    return root


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(workspace / variable))


def refused(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that must fail; a traceback would be an exception that leaves it."""
    main: Callable[[list[str]], int] = importlib.import_module(f"nnssl.cli.{command}").main
    code = main(words)
    message = " ".join(capsys.readouterr().err.split())
    assert code not in (0, None), message
    assert f"nnssl_{command}: " in message and "Traceback" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_file_made_to_do_harm(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    mark, file = tmp_path / "inside" / "mark", tmp_path / "inside" / "weights.pth"
    file.parent.mkdir()
    bombs(mark)[kind](file)
    before = {path for path in workspace.rglob("*") if "nnUNet_results" not in path.parts}
    message = refused(command, list(readers(workspace, file)[command]), capsys)
    assert "weights.pth" in message
    assert not mark.exists() and sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "weights.pth"]
    assert {path for path in workspace.rglob("*") if "nnUNet_results" not in path.parts} - before == set()


def test_the_bombs_would_go_off_elsewhere(tmp_path: Path) -> None:
    for kind in ("torch zip", "torch file of before 1.6"):
        file, mark = tmp_path / "w.pth", tmp_path / kind
        bombs(mark)[kind](file)
        torch.load(file, weights_only=False)
        assert mark.is_dir()


@pytest.mark.parametrize("kind", ["zip of a pickle", "zip that leads out", "tar"])
def test_an_archive_is_no_source_of_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = tmp_path / "download" / "scans.zip"
    source.parent.mkdir()
    bombs(tmp_path / "mark")[kind](source)
    for given in (source, source.parent):
        message = refused("ingest", [str(given), "-d", "745", "-n", "Zip", "--workspace", str(tmp_path / "w")], capsys)
        assert message
    assert not (tmp_path / "mark").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("out", "data.pkl")]


@pytest.mark.parametrize(("installed", "warns"), [("2.9.1", True), ("2.10.0", False), ("2.15.0+cu132", False)])
def test_an_old_torch_is_told_once_a_torch_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, warns: bool
) -> None:
    write_weights(tmp_path / "w.pth", tiny_plans("Dataset745_Tiny"))
    monkeypatch.setattr(compat, "version", lambda name: installed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_content(tmp_path / "w.pth")
        assert [f"torch {installed} has known holes" in str(each.message) for each in told] == [True] * warns
        told.clear()
        read_any(tmp_path / "encoder.safetensors")
        assert not told


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip of 20 MB in 20 kB that nothing may be read of."""

    def read(self: zipfile.ZipFile, *every: object) -> None:
        pytest.fail("The archive is unpacked.")

    bombs(tmp_path / "mark")["zip that grows"](tmp_path / "w.pth")
    for way in ("testzip", "open", "read"):
        monkeypatch.setattr(zipfile.ZipFile, way, read)
    return tmp_path / "w.pth"


@pytest.mark.parametrize(("reader", "error"), [(load_content, DataError), (read_checked, StateError)])
def test_a_compressed_zip_is_not_even_unpacked_to_check_it(
    growing: Path, reader: Callable[[Path], object], error: type[NnsslError]
) -> None:
    with pytest.raises(error, match="unpack to far more than its size"):
        reader(growing)


def test_a_pretraining_does_not_start_from_a_zip_that_grows(
    growing: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused("pretrain", list(readers(workspace, growing)["pretrain"]), capsys)
    assert "w.pth would unpack to far more than its size" in message
