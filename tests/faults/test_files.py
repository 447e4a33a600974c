"""Killed, or out of disk, at every file operation of a save, an export and a preprocessing: whole old or whole new."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.boundaries import Fault
from tests.faults.checks_files import Preprocessing, Scene, check_strike, operations, publishing, saving
from tests.faults.world import spread

pytestmark = pytest.mark.pipeline  # whole commands in processes of their own

Kind = Literal["kill", "full"]
KINDS: tuple[Kind, ...] = ("kill", "full")
NO_LINKS = ("hard links",)
SAMPLE = 3  # operations in the fast tests


@pytest.fixture(scope="module")
def preprocessing(tmp_path_factory: pytest.TempPathFactory) -> Preprocessing:
    made = Preprocessing(tmp_path_factory.mktemp("preprocessing") / "old")
    made.before()
    truth = made.scene(made.root.parent / "truth")
    truth.task(*truth.arguments)
    return made


def strike_all(
    scene: Callable[[Path], Scene], where: Path, kind: Kind, most: int | None, without: tuple[str, ...] = ()
) -> None:
    """Strike at each of the operations of a scene, or at `most` of them spread over all."""
    total = operations(scene(where / "count"), without=without)
    assert total > 10
    failed, chosen = 0, range(total) if most is None else spread(total, most)
    for at in chosen:
        failed += check_strike(scene(where / str(at)), Fault(kind=kind, root=where, at=at), without=without)
        shutil.rmtree(where / str(at))
    assert failed >= 0.6 * len(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_a_save_is_struck(tmp_path: Path, kind: Kind) -> None:
    strike_all(saving, tmp_path, kind, SAMPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_an_export_is_struck(tmp_path: Path, kind: Kind) -> None:
    strike_all(publishing, tmp_path, kind, SAMPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_a_preprocessing_is_struck(preprocessing: Preprocessing, tmp_path: Path, kind: Kind) -> None:
    strike_all(preprocessing.scene, tmp_path, kind, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("links", [(), NO_LINKS], ids=["links", "no links"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_of_a_save_is_struck(tmp_path: Path, kind: Kind, links: tuple[str, ...]) -> None:
    strike_all(saving, tmp_path, kind, None, links)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_of_an_export_is_struck(tmp_path: Path, kind: Kind) -> None:
    strike_all(publishing, tmp_path, kind, None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_of_a_preprocessing_is_struck(preprocessing: Preprocessing, tmp_path: Path, kind: Kind) -> None:
    strike_all(preprocessing.scene, tmp_path, kind, None)


def test_what_takes_a_name_is_on_the_disk_before(tmp_path: Path) -> None:
    """Power may fail too: a file is flushed after its last write and before it is renamed, the folder after that."""
    scene = saving(tmp_path / "run")
    fault = Fault(kind="count", root=scene.folder)
    operations(replace(scene, folder=scene.folder))
    listed = [line.split(" ", 1) for line in fault.list_file.read_text().splitlines()]
    renamed = [(number, path) for number, (name, path) in enumerate(listed) if name == "replace" and "partial" in path]
    assert renamed
    for number, path in renamed:
        own = [name for name, other in listed[:number] if other == path]
        assert own[-1] == "fsync" and "write" in own
        assert ["fsync", str(scene.folder)] in listed[number:]
