"""Whose a scan is: folders of patients are recognised at any depth, by names and by what lies beside them."""

from __future__ import annotations

import pytest

from nnssl.ingest.find import find
from nnssl.ingest.identity import Pseudonyms
from nnssl.ingest.people import is_person, is_time
from nnssl.ingest.report import summary
from tests.ingest.scans import texture, write


def found(source, *files):
    """{path: (subject, session)} of empty files."""
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    scans = []
    find(source, form="auto", pseudonyms=Pseudonyms(b"key"), take=scans.append)
    return {scan.shown: (scan.subject, scan.session) for scan in scans}


def whose(source, *files):
    return {subject for subject, _ in found(source, *files).values()}


def test_patients_folders_below_others_are_subjects_wherever_the_command_points(source):
    files = [f"ward_A/patient {number:02d}/2019/ct.nii.gz" for number in range(9)]
    for files_ in (files, [*files, "ward_A/chest.nii.gz", "ward_B/patient 00/2020-03/ct.nii.gz"]):
        told = found(source, *files_)
        assert told["ward_A/patient 03/2019/ct.nii.gz"] == ("ward_A_patient 03", "2019")
        assert len({subject for subject, _ in told.values()}) == len(files_)
    assert found(source / "ward_A")["patient 03/2019/ct.nii.gz"] == ("patient 03", "2019")


@pytest.mark.parametrize(
    ("files", "subjects"),
    [
        # dates below say that the folders above are patients
        (["w/mueller/2019/ct.nii", "w/mueller/2020/ct.nii", "w/meier/2019-03/ct.nii"], {"w_mueller", "w_meier"}),
        (["a/w/mueller/2019/ct.nii", "a/w/meier/20190312/ct.nii"], {"a_w_mueller", "a_w_meier"}),
        # names that no neighbour has are patients, those that recur are sessions or sequences
        (["s1x/anna/a.nii", "s1x/bert/b.nii", "s2x/carl/c.nii", "s2x/dora/d.nii"],
         {"s1x_anna", "s1x_bert", "s2x_carl", "s2x_dora"}),
        (["anna/first/a.nii", "anna/second/b.nii", "bert/first/c.nii", "bert/second/d.nii"], {"anna", "bert"}),
        (["anna/t1.nii", "anna/flair.nii", "bert/t1.nii"], {"anna", "bert"}),
        (["anna/MR_head/x.nii", "anna/CT_thorax/y.nii", "bert/MR_head/x.nii"], {"anna", "bert"}),
        (["anna/1/x.nii", "anna/2/x.nii", "bert/1/x.nii"], {"anna", "bert"}),
        (["anna/x.nii", "anna/y.nii"], {"anna"}),
        # folders that say nothing
        (["train/CT/anna/2019/x.nii", "test/CT/bert/x.nii"], {"anna", "bert"}),
        # files that lie flat
        ([f"web/{name}.nii" for name in "abcdefghijk"], {f"web_{name}" for name in "abcdefghijk"}),
        (["web/case_01.nii", "web/case_02.nii"], {"web_case_01", "web_case_02"}),
        ([f"{who}/{number:03d}.nii" for who in ("anna", "bert") for number in range(12)], {"anna", "bert"}),
        ([f"IXI/IXI{number:03d}-T1.nii" for number in range(50)], {f"IXI_IXI{number:03d}-T1" for number in range(50)}),
        (["LIDC/LIDC-IDRI-0001/a.nii", "LIDC/LIDC-IDRI-0002/a.nii"], {"LIDC_LIDC-IDRI-0001", "LIDC_LIDC-IDRI-0002"}),
    ],
)  # fmt: skip
def test_the_level_with_most_sense_is_the_patients(source, files, subjects):
    assert whose(source, *files) == subjects


@pytest.mark.parametrize("target", ["..", "../..", ".", "../beside", "nowhere"])
def test_a_link_that_is_not_followed_changes_nobody(source, run, target):
    for number in range(9):
        write(source / "loose" / f"{'abcdefghi'[number]}na.nii.gz", texture(number))
    write(source / "beside" / "x" / "a.nii.gz", texture(20))
    before = sorted(record.subject for record in run(dry_run=True).taken)
    assert len({*before}) == 10
    (source / "loose" / "up").symlink_to(target)
    assert sorted(record.subject for record in run(dry_run=True).taken) == before


def test_names_of_people_and_times():
    assert all(map(is_person, ("patient 04", "sub-01", "Pat_7", "P000", "case12", "LIDC-IDRI-0314", "00123", "IXI002")))
    assert not any(map(is_person, ("anna", "2019", "2021-03", "20190312", "ses-1", "001", "ward_A", "scan001", "T1")))
    assert not is_person("a" * 250) and not is_person("a-" * 120)  # in no time
    assert is_person("2000123") and not is_time("2000123")
    assert all(map(is_time, ("2019", "2021-03", "2019_03_12", "12.03.2019", "ses-1", "visit 2", "tp3")))
    assert not any(map(is_time, ("anna", "patient 2019", "123", "ct")))


def test_the_console_says_how_subjects_were_found(source, run):
    for number in range(3):
        write(source / "ward_A" / f"patient {number:02d}" / "2019" / "ct.nii.gz", texture(number, ct=True))
    write(source / "loose.nii.gz", texture(7, ct=True))
    outcome = run()
    said = "\n".join(summary("x", outcome))
    assert "4 cases of 4 subjects" in said
    assert "Subjects: 3 by names of folders in ward_A, 1 by names of files in source." in said
    assert outcome.subjects == [("names of folders in ward_A", 3), ("names of files in source", 1)]
    hidden = run(hide_names=True, dry_run=True)
    assert hidden.subjects == [("names of folders", 3), ("names of files", 1)]
