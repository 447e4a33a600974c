"""A scan that ends the command which reads it is refused by the next command, and by no other means stops the work."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from nnssl.planning import fingerprint, write_case
from nnssl.planning.cases import RawFiles, read_raw_dataset
from nnssl.planning.folder import Outcome, preprocess_folder
from nnssl.planning.grid import case_plan
from nnssl.planning.reading import read_image
from nnssl.planning.refusal import Refused
from nnssl.planning.requirements import Required
from nnssl.planning.run import write_fingerprint
from nnssl.planning.suspects import check_survives
from tests.tiny import make_raw_dataset, tiny_plans, workspace_folders

BAD = "case_01"
DEADLY = f"""
import os, signal, sys, time
if any("{BAD}" in word for word in sys.orig_argv):
    os.environ.get("HANGS") and time.sleep(60)
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def where(tmp_path):
    where = workspace_folders(tmp_path)
    make_raw_dataset(where.raw, 745, 3, shape=(14, 15, 16))
    return where


@pytest.fixture
def deadly(tmp_path, monkeypatch) -> None:
    """No process survives that is started to read the bad case."""
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def preprocess(where) -> Outcome:
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    plan = case_plan(tiny_plans(dataset.name, spacing_mm=(1.5, 1.25, 1.0)), "3d_fullres")
    return preprocess_folder(
        dataset, plan, where.preprocessed / dataset.name / plan.data_identifier, Required(), workers=1
    )


def plan(where) -> dict[str, str]:
    dataset = read_raw_dataset("Dataset745_Tiny", where)
    return write_fingerprint(dataset, "SimpleITKIO", where, workers=1, anew=True, say=print)


def notes(where) -> list[str]:
    return [file.name for file in (where.preprocessed / "Dataset745_Tiny").glob(".reading-*")]


def dying(function, where) -> None:
    def reads(files, reader):
        if BAD in files[0].name:
            faulthandler.disable()  # pytest's; it would fill the page
            signal.raise_signal(signal.SIGSEGV)  # in this very thread: os.kill may strike another one, a little later
        return read_image(files, reader)

    write_case.read_image = fingerprint.read_image = reads
    function(where)


def dies(function, where) -> None:
    """Do it in a process whose reader dies of the bad case."""
    process = multiprocessing.get_context("fork").Process(target=dying, args=(function, where))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGSEGV


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.parametrize("function", [preprocess, plan])
def test_the_next_command_refuses_it_until_it_changes(where, deadly, function) -> None:
    def refused() -> dict[str, str]:
        found = function(where)
        return dict(found.quarantined if isinstance(found, Outcome) else found)

    dies(function, where)
    assert notes(where) == [f".reading-{BAD}"]
    for _ in range(2):  # nor is it forgotten
        bad = refused()
        assert list(bad) == [BAD]
        assert "refused as reader_crashed" in bad[BAD] and "signal 11 (SIGSEGV)" in bad[BAD], bad
    file = next((where.raw / "Dataset745_Tiny" / "imagesTr").glob(f"{BAD}*"))
    os.utime(file, ns=(1, 1))
    assert refused() == {} and notes(where) == []


def test_a_scan_that_was_read_when_the_command_was_killed_is_none_the_worse(where) -> None:
    dies(preprocess, where)
    assert notes(where)
    outcome = preprocess(where)
    assert (len(outcome.made) + len(outcome.kept), outcome.quarantined, notes(where)) == (3, {}, [])


def test_a_reader_that_gives_no_answer_is_not_waited_for(tmp_path: Path, deadly, monkeypatch) -> None:
    monkeypatch.setenv("HANGS", "1")
    case = RawFiles(case_id=BAD, files=(tmp_path / f"{BAD}_0000.nii.gz",), subject="a")
    with pytest.raises(Refused, match=r"nothing came of reading .* within 1 s") as refusal:
        check_survives(case, "SimpleITKIO", seconds=1)
    assert refusal.value.reason == "reader_hung"
