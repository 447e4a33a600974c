"""Every layout is recognised, and who was scanned, when and how is kept."""

from __future__ import annotations

import csv
import json

import numpy as np
import SimpleITK

from nnssl.ingest.report import summary
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.reading import read_image
from tests.ingest.scans import texture, write, write_nifti, write_series
from tests.tiny import make_raw_dataset, workspace_folders


def rows(outcome):
    return {record.case: (record.subject, record.session, " ".join(record.modality)) for record in outcome.taken}


def reasons(outcome):
    return sorted(record.reason for record in outcome.refused)


def voxels(dataset, case, channel=0):
    return read_image([dataset / "imagesTr" / f"{case}_{channel:04d}.nii.gz"], "SimpleITKIO").data[0]


def test_loose_files_of_every_format_become_cases(source, dataset, run):
    names = ("a.nii.gz", "b.nii", "c.nrrd", "d.mha", "e.mhd", "f.h5")
    for seed, name in enumerate(names):
        write(source / name, texture(seed))
    outcome = run()
    assert sorted(rows(outcome)) == ["a", "b", "c", "d", "e", "f"] and not outcome.refused
    for seed, case in enumerate("abcdef"):
        image = read_image([dataset / "imagesTr" / f"{case}_0000.nii.gz"], "SimpleITKIO")
        np.testing.assert_array_equal(image.data[0], texture(seed))
        original = SimpleITK.ReadImage(str(source / names[seed]))
        np.testing.assert_allclose(image.to_world[:3, 3], original.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.spacing_mm[::-1], original.GetSpacing(), rtol=1e-6)
    assert outcome.channels == {"0": "image"}


def test_a_first_channels_ending_is_no_part_of_a_name(source, run):
    for seed, name in enumerate(("a_0000", "a", "b_0000", "img_0002")):
        write(source / f"{name}.nii.gz", texture(seed))
    assert sorted(rows(run())) == ["a", "a-2", "b", "img_0002-"]


def test_a_folder_a_patient_and_time_point_gives_subjects_and_sessions(source, run):
    write(source / "anna" / "2019" / "t1.nii.gz", texture(0))
    write(source / "anna" / "2021" / "t1.nii.gz", texture(1))
    write(source / "bert" / "2020" / "t1.nii.gz", texture(2))
    assert rows(run()) == {
        "anna_2019_t1": ("anna", "2019", ""),
        "anna_2021_t1": ("anna", "2021", ""),
        "bert_2020_t1": ("bert", "2020", ""),
    }


def test_a_bids_tree_keeps_its_entities_and_leaves_derivatives_alone(source, run):
    (source / "dataset_description.json").write_text("{}")
    write(source / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz", texture(0))
    write(source / "sub-02" / "anat" / "sub-02_T1w.nii.gz", texture(1))
    write(source / "sub-02" / "anat" / "sub-02_desc-brain_mask.nii.gz", texture(3))
    write(source / "derivatives" / "sub-01" / "sub-01_T1w.nii.gz", texture(2))
    outcome = run()
    assert rows(outcome) == {"sub-01_ses-1_T1w": ("01", "1", "T1w"), "sub-02_T1w": ("02", "", "T1w")}
    assert outcome.channels == {"0": "T1w"} and reasons(outcome) == ["label_map"]
    assert outcome.ignored["files of BIDS derivatives"] == 1


def test_an_nnunet_task_keeps_channels_and_subjects(source, dataset, run):
    folder = make_raw_dataset(source, 4, 2, kind="two", shape=(12, 12, 12), labels=True)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "subjects": {"case_00": "anna", "case_01": "anna"}}))
    outcome = run()
    assert rows(outcome) == {"case_00": ("anna", "", "T1 T2"), "case_01": ("anna", "", "T1 T2")}
    assert outcome.channels == {"0": "T1", "1": "T2"}
    assert json.loads((dataset / "dataset.json").read_text())["subjects"] == {"case_00": "anna", "case_01": "anna"}
    np.testing.assert_array_equal(
        voxels(dataset, "case_01", 1), read_image([folder / "imagesTr" / "case_01_0001.nii.gz"], "SimpleITKIO").data[0]
    )


def test_a_decathlon_task_is_read_without_labels_and_its_volumes_are_channels(source, dataset, run):
    both = np.stack([texture(0), texture(1)])  # as in its brain task: one file, modalities along the fourth axis
    write_nifti(source / "imagesTr" / "BRATS_001.nii.gz", both)
    write_nifti(source / "labelsTr" / "BRATS_001.nii.gz", (texture(0) > 600).astype(np.uint8))
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
        "test": ["./imagesTs/absent.nii.gz", "../../outside.nii.gz"],
    }
    (source / "dataset.json").write_text(json.dumps(content))
    outcome = run()
    assert rows(outcome) == {"BRATS_001": ("BRATS-001", "", "FLAIR T1w")}
    assert reasons(outcome) == ["missing_file", "outside_source"]
    np.testing.assert_array_equal(voxels(dataset, "BRATS_001", 1), texture(1))


def test_images_beside_labels_need_no_json(source, run):
    for seed, case in enumerate(("p1", "p2")):
        write(source / "imagesTr" / f"{case}_0000.nii.gz", texture(seed))
        write(source / "imagesTr" / f"{case}_0001.nii.gz", texture(seed + 10))
        write(source / "labelsTr" / f"{case}.nii.gz", (texture(seed) > 600).astype(np.uint8))
    outcome = run()
    assert rows(outcome) == {"p1": ("p1", "", " "), "p2": ("p2", "", " ")}
    assert outcome.ignored["files of label folders"] == 2 and not outcome.refused


def test_a_table_names_scans_and_who_they_are_of(source, run):
    write(source / "x" / "1.nii.gz", texture(0, ct=True))
    write(source / "x" / "2.nii.gz", texture(1, ct=True))
    write(source / "3.nii.gz", texture(2, ct=True))
    (source / "scans.csv").write_text(
        "Path;Subject;Session;Modality;Split\nx/1.nii.gz;anna;s1;CT;train\nx/2.nii.gz;anna;s2;CT;\n"
        "3.nii.gz;bert;;CT;test\nx/absent.nii.gz;;;;\n../../up.nii.gz;;;;\n/etc/hostname;;;;\n"
    )
    outcome = run(source / "scans.csv")
    assert rows(outcome) == {"anna_s1_1": ("anna", "s1", "CT"), "anna_s2_2": ("anna", "s2", "CT")}
    assert outcome.channels == {"0": "CT"}
    assert reasons(outcome) == ["held_out", "missing_file", "outside_source", "unknown_format"]
    assert len(run(source / "scans.csv", accepted={"held_out"}).taken) == 3


def test_a_monai_list_tells_splits_and_channels(source, run):
    for seed, name in enumerate(("a", "b", "c")):
        write(source / f"{name}.nii.gz", texture(seed))
    write(source / "a2.nii.gz", texture(9))
    content = {
        "training": [{"image": ["a.nii.gz", "a2.nii.gz"], "label": "l.nii.gz"}],
        "validation": [{"image": "b.nii.gz"}],
        "name": "x",
    }
    (source / "list.json").write_text(json.dumps(content))
    outcome = run(source / "list.json")
    assert rows(outcome) == {"a": ("a", "", " ")} and reasons(outcome) == ["held_out"]


def test_the_peers_list_keeps_subjects_sessions_and_modality(source, run, monkeypatch):
    monkeypatch.setenv("OPENMIND", str(source))
    write(source / "a.nii.gz", texture(0))
    image = {"name": "a", "modality": "T1w", "image_path": "$OPENMIND/a.nii.gz", "associated_masks": {}}
    sessions = {"ses-1": {"session_id": "ses-1", "images": [image, {**image, "image_path": "$NOWHERE/b.nii.gz"}]}}
    subjects = {"sub-1": {"subject_id": "sub-1", "sessions": sessions}}
    content = {"collection_name": "c", "datasets": {"ds1": {"dataset_index": "ds1", "subjects": subjects}}}
    (source / "pretrain_data.json").write_text(json.dumps(content))
    outcome = run()
    assert rows(outcome) == {"ds1_sub-1_ses-1_a": ("ds1-sub-1", "ses-1", "T1w")}
    assert reasons(outcome) == ["missing_file"]


def test_png_stacks_need_a_table_of_spacings(source, dataset, run):
    slices = texture(0, (7, 12, 14), ct=True)
    for number, plane in zip((101, 102, 103, 105, 106, 107, 108), slices, strict=True):
        path = source / "Images_png" / "000001_01_01" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray((plane.astype(np.int32) + 32768).astype(np.uint16)), str(path))
    assert reasons(run()) == ["no_spacing", "no_spacing"]
    with (source / "DL_info.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["File_name", "Patient_index", "Study_index", "Spacing_mm_px_"])
        table.writerow(["000001_01_01_103.png", "1", "1", "0.8, 0.8, 5.0"])
    outcome = run()
    assert rows(outcome) == {"000001_01_01_101-103": ("1", "1", "CT"), "000001_01_01_105-108": ("1", "1", "CT")}
    np.testing.assert_array_equal(voxels(dataset, "000001_01_01_105-108"), slices[3:])
    image = read_image([dataset / "imagesTr" / "000001_01_01_101-103_0000.nii.gz"], "SimpleITKIO")
    np.testing.assert_allclose(image.spacing_mm, (5.0, 0.8, 0.8))
    assert outcome.channels == {"0": "CT"}


def test_a_mixed_folder_gives_each_layout_its_due(source, run):
    write_series(source / "dicom" / "s1", texture(0, ct=True))
    write(source / "loose.nrrd", texture(1, ct=True))
    write(source / "task" / "imagesTr" / "p_0000.nii.gz", texture(2, ct=True))
    (source / "readme.txt").write_text("x")
    outcome = run()
    assert len(outcome.taken) == 3 and outcome.channels == {"0": "CT"}
    assert set(outcome.layouts) == {"DICOM series", "volumes in folders", "volumes in image folders"}
    assert outcome.ignored == {"files .txt": 1}


def test_what_is_written_is_what_planning_reads(source, dataset, run, tmp_path):
    write(source / "anna" / "1" / "ct.nii.gz", texture(0, ct=True))
    run()
    found = read_raw_dataset(dataset.name, workspace_folders(tmp_path))
    assert [(case.case_id, case.subject) for case in found.cases] == [("anna_1_ct", "anna")] and found.modality == (
        "ct",
    )


def test_a_folder_of_numbered_channels_has_a_subject_a_case_and_a_patients_folder_one(source, run):
    for seed, name in enumerate(("hippo/h1_0000", "hippo/h2_0000", "anna/x_0000", "anna/x_0001")):
        write(source / f"{name}.nii.gz", texture(seed))
    found = {record.case: record.subject for record in run().records}
    assert found == {"hippo_h1": "hippo-h1", "hippo_h2": "hippo-h2", "anna_x": "anna"}


def test_a_table_may_name_the_folder_of_a_series_but_not_the_whole_machine(source, run):
    write_series(source / "in" / "ct", texture(0, ct=True))
    (source / "in" / "scans.csv").write_text(f"path\nct\n/\n/usr\n{source}\n{source / 'in'}\n.\n")
    outcome = run(source / "in" / "scans.csv")
    assert len(outcome.taken) == 1 and set(reasons(outcome)) == {"outside_source"}


def test_every_file_of_a_source_is_accounted_for(source, run):
    def touch(*names):
        for name in names:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text("{}")

    write(source / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", texture(0))
    touch("bids/dataset_description.json", "bids/participants.tsv", "bids/README", "bids/sub-01/anat/sub-01_T1w.json")
    touch("bids/derivatives/x/y.json", "bids/extra/z.txt", "bids/.bidsignore")
    task = make_raw_dataset(source, 4, 2, kind="two", shape=(12, 12, 12), labels=True)
    touch(f"{task.name}/notes.txt")
    write(source / "list" / "a.nii.gz", texture(1))
    (source / "list" / "datalist.json").write_text(json.dumps({"training": [{"image": "a.nii.gz"}]}))
    touch("list/b.txt")
    write(source / "loose" / "c.mhd", texture(2))
    write_series(source / "dicom" / "s", texture(3, ct=True))
    touch("dicom/DICOMDIR", "loose/d.docx", "loose/.hidden", "loose/e.raw")
    outcome = run()
    assert dict(outcome.described) == {
        "dataset_description.json": 1,
        "dataset.json": 1,
        "JSON list": 1,
        "voxels of headers beside them": 1,
    }
    scans = 1 + 2 * 2 + 1 + 1 + len(texture(3))
    total = sum(1 for path in source.rglob("*") if path.is_file())
    assert scans + outcome.described.total() + outcome.ignored.total() == total, (outcome.described, outcome.ignored)
    assert outcome.ignored["files beside BIDS subjects"] == 2 and outcome.ignored["files DICOMDIR"] == 1
    lines = "\n".join(summary("x", outcome))
    assert "Read as descriptions: " in lines and "1 dataset_description.json" in lines


def test_a_table_may_name_scans_and_folders_of_series_anywhere_by_absolute_paths(source, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "a.nii.gz", texture(0, ct=True))
    write_series(elsewhere / "series", texture(1, ct=True))
    write_series(elsewhere / "study" / "s1", texture(2, ct=True))
    write_series(elsewhere / "study" / "s2", texture(3, ct=True))
    rows_ = (f"{elsewhere / 'a.nii.gz'},anna", f"{elsewhere / 'series'},bert", f"{elsewhere / 'study'},carl")
    (source / "list.csv").write_text("\n".join(("path,subject", *rows_, "../elsewhere/a.nii.gz,dora")))
    outcome = run(source / "list.csv")
    assert sorted(record.subject for record in outcome.taken) == ["anna", "bert", "carl", "carl"]
    assert [(record.reason, record.source) for record in outcome.refused] == [
        ("outside_source", "../elsewhere/a.nii.gz")
    ]
    assert outcome.described == {"CSV list": 1}
