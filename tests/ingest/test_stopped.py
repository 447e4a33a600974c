"""A run that was stopped decides nothing: the same command again ends as if it had never been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nnssl.errors import UsageError
from nnssl.ingest.ledger import Ledger
from nnssl.ingest.report import summary
from tests.ingest.scans import texture, write, write_nifti


def mixed(source, cts=3, mrs=4):
    """CTs first by name, the others more; one duplicate."""
    for seed in range(cts):
        write(source / f"a_ct{seed}.nrrd", texture(seed, ct=True))
    for seed in range(mrs):
        write_nifti(source / f"b_mr{seed}.nii.gz", texture(10 + seed))
    write_nifti(source / "c_again.nii.gz", texture(10))
    write(source / "d_slice.nii.gz", texture(1, (1, 12, 14)))


def stop_after(count, run, monkeypatch, **options):
    """A run that is stopped when it has noted this many scans."""
    original, calls = Ledger.put, []

    def stops(self, key, record):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(key)
        original(self, key, record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "put", stops)
        run(**options)


def ended(outcome):
    """All that a run decides."""
    kept = ("case", "source", "subject", "modality", "told", "status", "reason", "sentence", "accepted", "linked")
    return outcome.channels, [[getattr(record, name) for name in kept] for record in outcome.records], outcome.lost


def files(dataset):
    return sorted(path.name for path in (dataset / "imagesTr").iterdir())


@pytest.mark.parametrize("count", [1, 3, 5, 8, 9, 12])
def test_a_first_run_that_is_stopped_decides_nothing(source, dataset, run, monkeypatch, tmp_path, count):
    mixed(source)
    aim = run()
    there, whole = files(dataset), ended(aim)
    assert aim.channels == {"0": "image"} and len(aim.taken) == 4
    dataset.rename(tmp_path / "aim")
    stop_after(count, run, monkeypatch)
    again = run()
    assert ended(again) == whole and files(dataset) == there
    assert again.kept == min(count, 9), "what was read is not read again"
    assert "left it" not in "\n".join(summary("x", again))


def test_what_a_killed_run_was_writing_is_thrown_away(source, dataset, run):
    mixed(source)
    there = (run(), files(dataset))[1]
    (dataset / "imagesTr" / ".b_mr0_0000.nii.gz.e2z4h0jv.partial").write_bytes(b"half")
    run()
    assert files(dataset) == there


def test_another_command_may_follow_a_run_that_was_stopped(source, dataset, run, monkeypatch):
    mixed(source, mrs=3)
    stop_after(4, run, monkeypatch, channels=("CT",))
    assert not (dataset / "dataset.json").exists()
    outcome = run(channels=("MR",))
    assert outcome.channels == {"0": "MR"} and [record.case for record in outcome.taken] == ["b_mr0", "b_mr1", "b_mr2"]
    with pytest.raises(UsageError, match="3 cases with the channels MR"):
        run(channels=("CT",))


def test_what_a_stopped_run_took_leaves_when_the_next_one_does_not_find_it(source, dataset, run, monkeypatch):
    mixed(source)
    (source / "e").mkdir()
    write(source / "e" / "other.nrrd", texture(40))
    stop_after(10, run, monkeypatch)
    assert len(files(dataset)) > 1
    outcome = run(source / "e")
    assert [record.case for record in outcome.records] == ["other"] and files(dataset) == ["other_0000.nii.gz"]
    assert outcome.lost == 0


def test_what_a_stopped_run_accepted_is_not_accepted(source, run, monkeypatch):
    write(source / "a_labels.nii.gz", (texture(1) > 600).astype("uint8").repeat(4, 0))
    for seed in range(3):
        write(source / f"b{seed}.nii.gz", texture(seed))
    stop_after(2, run, monkeypatch, accepted={"label_map"})
    assert [record.reason for record in run().refused] == ["label_map"]


def test_names_that_a_stopped_run_wrote_are_hidden_when_the_next_one_hides_them(source, dataset, run, monkeypatch):
    for seed in range(4):
        write_nifti(source / f"erika_{seed}.nii.gz", texture(seed))
    stop_after(2, run, monkeypatch)
    outcome = run(hide_names=True)
    assert len(outcome.taken) == 4
    assert not any("erika" in name for name in files(dataset))
    assert "erika" not in (dataset / "ingest" / "report.html").read_text()


def test_a_later_run_that_is_stopped_turns_no_data_set(source, dataset, run, monkeypatch):
    for seed in range(2):
        write(source / f"z_ct{seed}.nii.gz", texture(seed, ct=True))
    run()
    for seed in range(5):
        write(source / f"a_mr{seed}.nii.gz", texture(10 + seed))
    stop_after(5, run, monkeypatch)
    outcome = run()
    assert outcome.channels == {"0": "CT"} and [record.case for record in outcome.taken] == ["z_ct0", "z_ct1"]
    assert files(dataset) == ["z_ct0_0000.nii.gz", "z_ct1_0000.nii.gz"] and outcome.lost == 0


def test_a_data_set_whose_cases_all_changed_keeps_its_kind_when_the_run_is_stopped(source, run, monkeypatch):
    for seed in range(2):
        write(source / f"ct{seed}.nii.gz", texture(seed, ct=True))
    run()
    for seed in range(2):
        write(source / f"ct{seed}.nii.gz", texture(20 + seed, ct=True))
    for seed in range(3):
        write(source / f"a_mr{seed}.nii.gz", texture(10 + seed))
    stop_after(0, run, monkeypatch)
    assert [record.case for record in run().taken] == ["ct0", "ct1"]


def test_no_folder_stays_when_a_stopped_run_is_finished_without_cases(source, dataset, run, monkeypatch):
    for seed in range(3):
        write(source / f"{seed}.nii.gz", texture(seed))
    stop_after(2, run, monkeypatch)
    with pytest.raises(UsageError):
        run(source / "mistyped")
    assert (dataset / "ingest" / "ledger.sqlite").is_file(), "an error in a command costs no work"
    assert not run(excluded=("*",)).taken and not dataset.exists()


@pytest.mark.parametrize("step", ["write_description", "write_table"])
def test_a_run_that_is_stopped_while_it_writes_the_data_set_decides_nothing(source, run, monkeypatch, step):
    mixed(source, mrs=2)

    def stops(*values):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"nnssl.ingest.run.{step}", stops)
        run()
    outcome = run(channels=("MR",))
    assert outcome.channels == {"0": "MR"} and [record.case for record in outcome.taken] == ["b_mr0", "b_mr1"]


def test_a_data_set_without_its_description_keeps_its_cases(source, dataset, run):
    for name in ("a", "b"):
        write(source / name / "scan.nrrd", texture(ord(name)))
        run(source / name)
    (dataset / "dataset.json").unlink()
    assert len(run(source / "b").taken) == 2


@pytest.mark.pipeline
@pytest.mark.parametrize("wanted", [2, 9])
def test_a_process_that_is_killed_decides_nothing(tmp_path, wanted):
    source = tmp_path / "source"
    for seed in range(14):
        write(source / f"a_ct{seed}.nrrd", texture(seed, (40, 40, 40), ct=True))
    for seed in range(15):
        write_nifti(source / f"b_mr{seed}.nii.gz", texture(30 + seed, (40, 40, 40)))
    command = [sys.executable, "-m", "nnssl.cli.ingest", str(source), "-d", "745", "-n", "T", "-np", "1"]
    aim = subprocess.run([*command, "--workspace", str(tmp_path / "aim")], capture_output=True, text=True, check=True)
    again = [*command, "--workspace", str(tmp_path / "w")]
    images = tmp_path / "w" / "nnUNet_raw" / "Dataset745_T" / "imagesTr"
    stopped = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while len(list(images.glob("*.nii.gz"))) < wanted and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGKILL)
    assert stopped.wait() == -signal.SIGKILL and not (images.parent / "dataset.json").exists()
    second = subprocess.run(again, capture_output=True, text=True, check=True)
    assert "15 cases" in aim.stdout and "15 cases" in second.stdout and "left it" not in second.stdout
    read = [json.loads((folder / "dataset.json").read_text()) for folder in (images.parent, _of(tmp_path / "aim"))]
    assert read[0] == read[1] and read[0]["channel_names"] == {"0": "image"}
    assert files(images.parent) == files(_of(tmp_path / "aim"))


def _of(workspace):
    return workspace / "nnUNet_raw" / "Dataset745_T"
