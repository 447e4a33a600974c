"""A reader that dies takes its scan with it, and nothing else: not this ingest, and not the next."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from nnssl.ingest import apart, take
from nnssl.ingest.run import Request, ingest
from tests.ingest.scans import texture, write


@pytest.fixture
def deadly(forked, monkeypatch, tmp_path):
    """Readers that do what the name of a file says; which files were begun."""
    begun, read = tmp_path / "begun", take.read_part

    def reads(part, accepted):
        name = part.files[0].name
        with begun.open("a") as file:
            file.write(f"{name}\n")
        if name.startswith("SIG"):
            faulthandler.disable()  # pytest's; it would fill the page
            os.kill(os.getpid(), signal.Signals[name.partition("-")[0]])
        if name.startswith("hangs"):
            time.sleep(3)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("fault"):
            raise AssertionError("a fault of ours")
        if name.startswith("memory"):
            raise MemoryError
        return read(part, accepted)

    monkeypatch.setattr(take, "read_part", reads)
    return lambda: begun.read_text().split()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_others_are_taken_and_the_next_run_knows_it(source: Path, dataset: Path, deadly, workers: int) -> None:
    bad = ["SIGSEGV-1.nrrd", "SIGABRT-2.mha", "SIGSEGV-3.nii.gz", "exit.nrrd"]
    for seed, name in enumerate([*bad, "a.nrrd", "T.mha", "z.nii.gz", "q.nrrd"]):
        write(source / name, texture(seed))
    request = Request(sources=(source,), folder=dataset, workers=workers)
    outcome = ingest(request, lambda sentence: None)
    assert sorted(record.case for record in outcome.taken) == ["T", "a", "q", "z"]
    assert {record.reason for record in outcome.refused} == {"reader_crashed"}
    said = {record.source: record.sentence for record in outcome.refused}
    assert sorted(said) == sorted(bad)
    assert said["SIGSEGV-1.nrrd"].startswith("its reader died of signal 11 (SIGSEGV); the other scans were read.")
    assert "signal 6 (SIGABRT)" in said["SIGABRT-2.mha"] and "exit code 3" in said["exit.nrrd"]
    again = ingest(request, lambda sentence: None)
    assert (again.new, again.kept, len(again.taken), len(deadly())) == (0, 8, 4, 8)


def test_it_is_read_once_more_where_that_is_asked_for(source, run, deadly, monkeypatch):
    write(source / "SIGSEGV-1.nrrd", texture(0))
    write(source / "a.nrrd", texture(1))
    assert [record.case for record in run().taken] == ["a"]
    assert len(run(accepted={"reader_crashed"}).refused) == 1  # and dies once more, alone
    monkeypatch.undo()
    assert len(run(accepted={"reader_crashed"}).taken) == 2


@pytest.mark.pipeline
def test_a_reader_that_hangs_is_not_waited_for_unless_that_is_asked_for(source, run, deadly, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 1.0)
    write(source / "hangs.nrrd", texture(0))
    write(source / "z.nrrd", texture(1))
    outcome = run()
    assert [record.case for record in outcome.taken] == ["z"]
    assert [(record.source, record.reason) for record in outcome.refused] == [("hangs.nrrd", "reader_hung")]
    assert outcome.refused[0].sentence.startswith("its reader gave no answer within 1 s; the other scans were read.")
    assert not multiprocessing.active_children()
    assert len(run(accepted={"reader_hung"}).taken) == 2


def test_a_changed_scan_that_is_refused_leaves_the_data_set(source, dataset, run, deadly):
    write(source / "a.nrrd", texture(0))
    link = source / "b.nrrd"
    write(link, texture(1))
    assert len(run().taken) == 2
    write(link, texture(2)[:1])
    outcome = run()
    assert [record.reason for record in outcome.refused] == ["single_slice"]
    assert [file.name for file in (dataset / "imagesTr").iterdir()] == ["a_0000.nii.gz"]


def test_faults_of_ours_show_themselves_and_memory_is_told(source, run, deadly):
    write(source / "memory.nrrd", texture(0))
    write(source / "a.nrrd", texture(1))
    outcome = run()
    assert "needs more memory" in outcome.refused[0].sentence and len(outcome.taken) == 1
    write(source / "fault.nrrd", texture(2))
    with pytest.raises(RuntimeError, match=r"(?s)AssertionError: a fault of ours"):
        run()


def test_names_that_are_no_text_reach_the_process(source, run):
    write(source / "a.nrrd", texture(0)).rename(source / os.fsdecode(b"n\xffu.nrrd"))
    outcome = run()
    assert [(record.reason, "not UTF-8" in record.sentence) for record in outcome.refused] == [("unreadable", True)]
