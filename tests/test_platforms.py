"""What a platform may lack, taken away: a sync of folders, signals, links, files in memory, float64 on a device."""

from __future__ import annotations

import errno
import gzip
import importlib
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch

from nnssl import atomic
from nnssl.atomic import whole_file
from nnssl.cli.ingest import main as ingest
from nnssl.data import loader
from nnssl.data.collection import Collection
from nnssl.data.placing import making_device, placed
from nnssl.data.store import read_box, write_array
from nnssl.engine import checkpoint, distributed, signals
from nnssl.engine.checkpoint import LATEST, PREVIOUS, load_state, save_state
from nnssl.errors import DeviceError
from nnssl.ingest import apart
from nnssl.method import Needs
from nnssl.views.spec import Geometry, Source, ViewGroup, ViewSpec
from tests.engine.workspace import DATASET, make_workspace
from tests.tiny import make_raw_dataset


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synchronised_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Windows opens no folder (EACCES); some shared disks refuse the sync."""
    real = os.open

    def windows(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if Path(path).is_dir():
            raise OSError(number, os.strerror(number), str(path))
        if not flags & os.O_RDWR and not flags & os.O_CREAT:
            raise OSError(errno.EBADF, "only what may be written is flushed", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(atomic.os, "open", windows)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_fails_while_a_folder_is_synchronised_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def failing(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path).is_dir():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(atomic.os, "open", failing)
    with pytest.raises(OSError, match="Input/output"), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")


@pytest.mark.parametrize("absent", [("SIGUSR1",), ("SIGUSR1", "SIGTERM"), ("SIGUSR1", "SIGKILL", "SIGHUP")])
def test_signals_that_a_platform_lacks_are_not_listened_to(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], absent: tuple[str, ...]
) -> None:
    for name in absent:
        monkeypatch.delattr(signal, name)
    try:
        again = importlib.reload(signals)
        assert len(again.SIGNALS) == 3 - len({"SIGUSR1", "SIGTERM"} & {*absent})
        with again.StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        first, second = capfd.readouterr().err.split("\n\n")
        assert "SIGINT: the run ends when this step is done" in first
        assert "what came after the last save is lost" in second
        importlib.import_module("nnssl.evaluate.commands")
        importlib.import_module("nnssl.cli.demo")
    finally:
        monkeypatch.undo()
        importlib.reload(signals)


def test_states_are_kept_twice_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(checkpoint.os, "link", refused)
    for step in (1, 2):
        save_state(tmp_path, {"step": step})
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, PREVIOUS}
    found = load_state(tmp_path, say=lambda sentence: None)
    assert found is not None and found["step"] == 2


def test_ingest_copies_where_there_are_no_links_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_raw_dataset(tmp_path / "source", 5, 2, shape=(20, 22, 24)) / "imagesTr"
    words = [str(source), "-n", "Scans", "--channels", "CT"]
    assert ingest([*words, "-d", "745", "--workspace", str(tmp_path / "links")]) == 0
    assert "(2 as links)" in capsys.readouterr().out

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "links need a right")

    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(apart, "_context", lambda: multiprocessing.get_context("fork"))  # copies of this process
    assert ingest([*words, "-d", "746", "--workspace", str(tmp_path / "copies")]) == 0
    assert "(0 as links)" in capsys.readouterr().out
    copies = sorted((tmp_path / "copies").rglob("*.nii.gz"))
    assert len(copies) == 2 and not any(copy.is_symlink() for copy in copies)
    assert all(gzip.decompress(copy.read_bytes()) for copy in copies)


def test_arrays_are_read_where_files_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal((1, 9, 10, 11)).astype(np.float32)
    write_array(tmp_path / "a.b2nd", array, (8, 8, 8))
    real = blosc2.open

    def no_maps(*words: Any, **options: Any) -> Any:
        if options.get("mmap_mode"):
            raise OSError(errno.ENODEV, "this disk maps no files")
        return real(*words, **options)

    monkeypatch.setattr(blosc2, "open", no_maps)
    np.testing.assert_array_equal(read_box(tmp_path / "a.b2nd", (1, 2, 3), (8, 9, 10)), array[:, 1:8, 2:9, 3:10])


# ----------------------------------------------------------------------------------------------------------- mps


def test_mps_that_is_not_there_is_refused_and_one_that_is_gets_its_views_from_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="-device mps needs a Mac"):
        distributed.choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.choose_device("mps") == torch.device("mps")
    assert making_device(torch.device("mps")) == making_device(torch.device("cpu")) == torch.device("cpu")
    assert making_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_for_a_device_without_float64_are_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """ "meta" stands for the device: whatever was made there would have no values, and moving there is counted."""
    root = make_workspace(tmp_path, cases=4)
    home = root / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres"
    cases = Collection.from_datasets([home], needs=Needs())
    group = ViewGroup(name="v", count=2, size=(16, 16, 16), geometry=Geometry(flip=(0.5, 0.5, 0.5)))
    spec = ViewSpec(sources=(Source(size=((20, 20), (20, 20), (20, 20))),), groups=(group,))
    moved = []
    monkeypatch.setattr(loader, "making_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(loader, "placed", lambda batch, device: moved.append(device) or batch)
    batches = []
    for device in ("meta", "cpu"):
        with loader.ViewStream(
            cases, spec, Needs(), seed=3, slicing=loader.Slicing(batch_size=2), device=device, workers=workers
        ) as stream:
            batches.append(stream.batch(0, 0))
    assert moved == [torch.device("meta")]
    one, other = (batch.views["v"] for batch in batches)
    assert torch.equal(one.image, other.image) and torch.equal(one.to_source, other.to_source)
    monkeypatch.undo()
    there = placed(batches[0], torch.device("meta"))
    view, source = there.views["v"], there.sources[spec.sources[0].name]
    assert {view.image.device.type, view.valid.device.type, view.draws["flip"].device.type} == {"meta"}
    assert {view.to_source.device.type, source.to_world.device.type, there.keys.device.type} == {"cpu"}


def test_a_run_on_mps_is_called_untested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnssl import launch

    said: list[str] = []

    class Trainer:
        def print_to_log_file(self, sentence: str) -> None:
            said.append(sentence)

        def run_training(self) -> None:
            pass

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(launch, "build_trainer", lambda request, device: Trainer())
    for device in ("mps", "cpu"):
        launch.pretrain(launch.Request(trainer="T", dataset=DATASET, configuration="c", plans_name="p", device=device))
    assert len(said) == 1 and "untested" in said[0]


def test_a_workspace_may_be_moved(tmp_path: Path) -> None:
    """Nothing that is stored holds a path of the machine."""
    root = make_workspace(tmp_path / "here", cases=2)
    moved = Path(shutil.move(root, tmp_path / "there"))
    home = moved / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres"
    assert Collection.from_datasets([home], needs=Needs()).training
