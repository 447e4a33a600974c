"""What a request or the cohort decides is decided anew in every run; nothing is emptied or turned in silence."""

from __future__ import annotations

import json

import pytest

from nnssl.errors import DataError, UsageError
from nnssl.ingest.report import summary
from tests.ingest.scans import interrupted, texture, write, write_nifti, write_series


def cases(dataset):
    return sorted(path.name for path in (dataset / "imagesTr").iterdir())


def said(dataset):
    return json.loads((dataset / "dataset.json").read_text())


def mixed(source, cts=3, mrs=3):
    for seed in range(cts):
        write(source / f"ct{seed}.nii.gz", texture(seed, ct=True))
    for seed in range(mrs):
        write(source / f"mr{seed}.nii.gz", texture(10 + seed))


def test_what_cannot_be_read_at_all_is_not_new_in_every_run(source, run):
    write_nifti(source / "a.nii.gz", texture(0))
    for number in range(3):
        write(source / "stack" / f"{number:03d}.png", texture(number)[0].astype("uint16"))
    write_series(source / "sr", texture(1, (2, 10, 12), ct=True), modality="SR")
    first = run()
    assert sorted(record.reason for record in first.refused) == ["no_spacing", "not_an_image"] and first.new == 3
    again = run()
    assert (again.new, again.kept) == (0, 3)
    assert [record.sentence for record in again.refused] == [record.sentence for record in first.refused]
    (source / "stack" / "003.png").write_bytes((source / "stack" / "002.png").read_bytes())
    assert [record.source for record in run().refused.of("no_spacing")] == ["stack (000.png to 003.png)"]


@pytest.mark.parametrize("first", [("MR",), ()])
def test_channels_that_contradict_a_data_set_are_refused_before_anything_is_written(source, dataset, run, first):
    mixed(source, cts=0)
    assert len(run(channels=first).taken) == 3
    before, described = cases(dataset), said(dataset)
    with pytest.raises(UsageError, match=r"3 cases with the channels .* asks for CT\. Nothing was changed\. .* delete"):
        run(channels=("CT",))
    with pytest.raises(UsageError, match="asks for T1w, T2w"):
        run(channels=("T1w", "T2w"))
    assert cases(dataset) == before and said(dataset) == described
    again = run(channels=first)
    assert (len(again.taken), again.new, again.lost) == (3, 0, 0)


def test_channels_of_which_nobody_said_what_they_are_can_be_named(source, dataset, run):
    mixed(source, cts=0)
    run()
    assert said(dataset)["channel_names"] == {"0": "image"}
    outcome = run(channels=("MR",))
    assert (outcome.new, len(outcome.taken)) == (0, 3) and said(dataset)["channel_names"] == {"0": "MR"}
    assert [record.modality for record in outcome.taken] == [["MR"]] * 3
    with pytest.raises(UsageError, match="asks for PET"):
        run(channels=("PET",))


def test_a_wrong_request_is_forgotten_when_the_right_one_comes(source, dataset, run):
    mixed(source, cts=0)
    dataset.mkdir(parents=True)  # so that what was refused is known to the next run
    assert not run(channels=("CT",)).taken
    outcome = run(channels=("MR",))
    assert (outcome.new, len(outcome.taken), outcome.channels) == (3, 3, {"0": "MR"})
    assert cases(dataset) == [f"mr{seed}_0000.nii.gz" for seed in range(3)]


def test_what_was_refused_beside_others_is_taken_when_it_fits_again(source, dataset, run):
    mixed(source, cts=2, mrs=3)
    first = run()
    assert [record.case for record in first.refused] == ["ct0", "ct1"]
    assert all("is a CT" in record.sentence for record in first.refused)
    again = run(accepted={"other_modality"})
    assert (again.new, again.kept, len(again.taken)) == (2, 3, 5) and again.channels == {"0": "image"}
    last = run()
    assert (last.new, len(last.taken), last.channels) == (0, 5, {"0": "image"}), "what was accepted stays"


def test_a_data_set_keeps_its_kind_when_more_of_the_others_come(source, dataset, run):
    mixed(source, cts=2, mrs=0)
    run()
    mixed(source, cts=2, mrs=5)
    outcome = run()
    assert [record.case for record in outcome.taken] == ["ct0", "ct1"] and outcome.channels == {"0": "CT"}
    assert {record.reason for record in outcome.refused} == {"other_modality"}


def test_a_duplicate_is_taken_when_the_first_has_changed(source, dataset, run):
    for name in ("a", "b"):
        write(source / f"{name}.nii.gz", texture(0))
    write(source / "c.nii.gz", texture(1))
    assert [record.case for record in run().taken] == ["a", "c"]
    assert run().new == 0
    write(source / "a.nii.gz", texture(5))
    outcome = run()
    assert [record.case for record in outcome.taken] == ["a", "b", "c"] and not outcome.refused
    assert cases(dataset) == ["a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz"]


@pytest.mark.parametrize("bad", [lambda path: path.write_bytes(b"none"), lambda path: write(path, texture(0, ct=True))])
def test_a_run_that_would_empty_a_data_set_leaves_it_as_it_was(source, dataset, run, bad):
    write(source / "a.nii", texture(0))
    run()
    image = dataset / "imagesTr" / "a_0000.nii.gz"
    content, described = image.read_bytes(), said(dataset)
    good = (source / "a.nii").read_bytes()
    bad(source / "a.nii")
    for _ in range(2):
        with pytest.raises(DataError, match=r"Nothing would be left of Dataset745_Test, which has 1 cases: .*a\.nii"):
            run()
        assert image.read_bytes() == content and said(dataset) == described
        assert sorted(path.name for path in (dataset / "ingest").iterdir() if path.suffix == ".sqlite") == [
            "ledger.sqlite"
        ]
        assert not (dataset / "ingest" / "before").exists()
    (source / "a.nii").write_bytes(good)
    assert len(run().taken) == 1


def test_cases_that_leave_are_told(source, dataset, run, capsys):
    mixed(source, cts=0)
    run()
    (source / "mr1.nii.gz").write_bytes(b"none")
    outcome = run()
    assert outcome.lost == 1 and "1 cases that were in the data set left it" in "\n".join(summary("x", outcome))
    assert cases(dataset) == ["mr0_0000.nii.gz", "mr2_0000.nii.gz"]


def test_no_folder_is_left_of_a_run_without_cases(source, dataset, run, tmp_path):
    write(source / "one.nii.gz", texture(1, (1, 12, 14)))
    outcome = run(report=tmp_path / "look")
    assert [record.reason for record in outcome.refused] == ["single_slice"] and not dataset.exists()
    assert (tmp_path / "look" / "report.html").is_file()
    with pytest.raises(UsageError):
        run(source / "absent")
    assert not dataset.exists()


def test_a_ct_by_its_own_word_stays_refused_for_its_values(source, run):
    write_series(source / "s", texture(0), intercept=0.0)
    write(source / "ct.nii.gz", texture(1, ct=True))
    for _ in range(2):
        assert [record.reason for record in run(channels=("CT",)).refused] == ["ct_not_hu"]


def test_scans_that_are_gone_from_their_source_are_told_and_dead_links_leave(source, dataset, run):
    linked = write_nifti(source / "linked.nii.gz", texture(0))
    moved = write_nifti(source / "moved.nii.gz", texture(1))
    copied = write(source / "copied.nrrd", texture(2))
    write(source / "stays.nii.gz", texture(3))
    assert len(run().taken) == 4
    linked.unlink()
    copied.unlink()
    (source / "new").mkdir()
    moved.rename(source / "new" / "moved.nii.gz")
    outcome = run()
    assert sorted(record.case for record in outcome.taken) == ["copied", "new_moved", "stays"]
    assert {record.case: record.reason for record in outcome.refused} == {"linked": "vanished", "moved": "vanished"}
    assert outcome.lost == 2 and cases(dataset) == ["copied_0000.nii.gz", "new_moved_0000.nii.gz", "stays_0000.nii.gz"]
    lines = "\n".join(summary("x", outcome))
    assert "vanished (2)" in lines and "copied: its source has no copied.nrrd any more; its copy stays" in lines
    assert "copied.nrrd any more" in (dataset / "ingest" / "report.html").read_text()
    write(copied, texture(2))
    assert not run().refused and not any("vanished" in record.suspicions for record in run().taken)


def test_a_source_that_is_empty_all_at_once_empties_nothing(source, dataset, run):
    """As when a disk is not there."""
    file = write_nifti(source / "a.nii.gz", texture(0))
    run()
    file.rename(source.parent / "elsewhere.nii.gz")
    with pytest.raises(DataError, match="vanished"):
        run()
    (source.parent / "elsewhere.nii.gz").rename(file)
    assert len(run().taken) == 1


def test_names_of_cases_that_were_set_aside_may_have_been_given_to_others(source, dataset, run):
    for folder in ("", "x", "y"):
        write(source / folder / "p1_t1.nii.gz", texture(len(folder) + 1 if folder == "y" else 0))
    first = run(source, source / "x", source / "y")
    assert [record.reason for record in first.refused] == ["duplicate"]
    (source / "p1_t1.nii.gz").unlink()
    outcome = run(source, source / "x", source / "y")
    assert len({record.case for record in outcome.taken}) == len(outcome.taken) == len(cases(dataset))


def test_a_killed_run_loses_no_case_that_had_changed(source, dataset, run):
    mixed(source, cts=0)
    run(copy=True)
    mixed(source, cts=0)  # written again
    with interrupted(2):
        run(copy=True)
    assert [record.case for record in run(copy=True).taken] == ["mr0", "mr1", "mr2"]
    assert cases(dataset) == [f"mr{seed}_0000.nii.gz" for seed in range(3)]
    assert not (dataset / "ingest" / "before").exists()
