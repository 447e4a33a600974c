"""Collections: splits by subject, data sets that agree or are refused, and what a method needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnssl.data.case import CaseEntry, Constants
from nnssl.data.collection import Collection
from nnssl.data.index import Index, write_index
from nnssl.data.requirements import largest_view, small_cases
from nnssl.data.sidecar import BodyMask
from nnssl.data.split import split
from nnssl.data.tables import write_table
from nnssl.errors import DataError, UsageError
from nnssl.needs import Match, MatchedPoints, Needs
from tests.volumes import one_group

CT = Constants(scheme="CTNormalization", offset=60.0, scale=250.0, lower=-950.0, upper=700.0)
ZSCORE = Constants(scheme="ZScoreNormalization", offset=1.0, scale=2.0)


def entries(count: int, dataset: str = "Dataset745_A", **fields: object) -> list[CaseEntry]:
    return [
        CaseEntry(**{  # type: ignore[arg-type]
            "case_id": f"case_{number:02d}", "dataset": dataset, "folder": Path(), "file": f"case_{number:02d}.b2nd",
            "shape": (20 + number, 30, 40), "channels": 1, "dtype": "float16", "spacing_mm": (2.0, 1.0, 1.0),
            "to_world": tuple(tuple(float(i == j) for j in range(4)) for i in range(4)),
            "subject": f"person_{number // 2}", "modality": ("ct",), "constants": (CT,), **fields,
        })
        for number in range(count)
    ]  # fmt: skip


def folder(root: Path, cases: list[CaseEntry]) -> Path:
    made = root / cases[0].dataset / "nnsslPlans_3d_fullres"
    made.mkdir(parents=True)
    write_index(made, Index(dataset=cases[0].dataset, entries={entry.case_id: entry for entry in cases}))
    return made


@pytest.mark.parametrize(("count", "held_out_subjects"), [(8, 1), (40, 1), (60, 2), (800, 16)])
def test_no_subject_is_on_both_sides(count: int, held_out_subjects: int) -> None:
    training, held_out = split(entries(count))
    subjects = [{entry.subject for entry in side} for side in (training, held_out)]
    assert not subjects[0] & subjects[1]
    assert len(subjects[1]) == held_out_subjects
    assert len(training) + len(held_out) == count


def test_cases_without_a_partner_are_left_out_and_this_is_said(tmp_path: Path) -> None:
    made, needs = folder(tmp_path, entries(4)), Needs(tables=(MatchedPoints,))
    point = (0.0, 0.0, 0.0)
    row = Match(case_a="case_00", point_a_mm=point, case_b="case_02", point_b_mm=point, score=1.0, matcher="body:1")
    write_table(made, MatchedPoints, [row])
    collection = Collection.from_datasets([made], needs=needs)
    assert [entry.case_id for entry in collection.training] == ["case_00", "case_02"]
    said = " ".join(collection.notes)
    assert "2 training cases have no matched point in another and are left out (case_01, case_03)" in said
    assert "matched points by body:1 (1 rows)" in said
    assert collection.matchers() == {"Dataset745_A": {"body:1": 1}}
    write_table(made, MatchedPoints, [])
    with pytest.raises(DataError, match="No training case of Dataset745_A has a matched point"):
        Collection.from_datasets([made], needs=needs)


def test_the_split_does_not_depend_on_order() -> None:
    cases = entries(60)
    assert set(e.case_id for e in split(cases)[1]) == set(e.case_id for e in split(cases[::-1])[1])


def test_few_cases_are_probed_on_themselves_and_this_is_said(tmp_path: Path) -> None:
    collection = Collection.from_datasets([folder(tmp_path, entries(7))])
    assert collection.training == collection.held_out
    assert "too few to hold any out" in collection.notes[-1]
    many = Collection.from_datasets([folder(tmp_path, entries(20, "Dataset746_B"))])
    assert "18 training cases; 2 cases of 1 subject held out" in many.notes[-1]


def test_data_info_tells_shapes_modality_and_numbers(tmp_path: Path) -> None:
    info = Collection.from_datasets([folder(tmp_path, entries(7))]).data_info(batch_size=2, steps_per_epoch=250)
    assert (info.modality, info.cases, info.batch_size, info.steps_per_epoch) == (("ct",), 7, 2, 250)
    assert info.shape_quantiles[0] == (20, 30, 40) and info.shape_quantiles[100] == (26, 30, 40)
    assert info.shape_quantiles[50] == (23, 30, 40) and info.shape_quantiles[10] == (20, 30, 40)


def test_data_sets_that_agree_are_joined_and_mixed(tmp_path: Path) -> None:
    folders = [folder(tmp_path, entries(9)), folder(tmp_path, entries(12, "Dataset746_B"))]
    joined = Collection.from_datasets(folders)
    assert len(joined.pools()[0]) == 1 and joined.pools()[1] is None
    mixed = Collection.from_datasets(folders, mix=[1, 3])
    pools, weights = mixed.pools()
    assert [pool[0].dataset for pool in pools] == ["Dataset745_A", "Dataset746_B"] and weights == [1, 3]
    assert {entry.dataset for entry in mixed.held_out} == {"Dataset745_A", "Dataset746_B"}
    with pytest.raises(UsageError, match="one weight over 0 for each of 2"):
        Collection.from_datasets(folders, mix=[1])
    with pytest.raises(UsageError, match="one weight over 0 for each of 2"):
        Collection.from_datasets(folders, mix=[1, float("nan")])
    with pytest.raises(UsageError, match="given once; found Dataset745_A, Dataset745_A"):
        Collection.from_datasets([folders[0], folders[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": (3.0, 1.0, 1.0)}, r"the same voxel spacing; found 2 x 1 x 1 and 3 x 1 x 1 mm"),
        ({"channels": 2}, "the same number of channels; found 1 and 2"),
        ({"constants": (ZSCORE,)}, "channel 0 has CTNormalization and ZScoreNormalization"),
        ({"constants": (replace(CT, offset=70.0),)}, "mean 60, sd 250 and mean 70, sd 250"),
    ],
)
def test_data_sets_that_differ_are_refused_with_the_command_that_helps(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folders = [folder(tmp_path, entries(9)), folder(tmp_path, entries(9, "Dataset746_B", **change))]
    with pytest.raises(DataError, match=message + r".*nnssl_plan_and_preprocess -d 746 -target 745"):
        Collection.from_datasets(folders)


def test_raw_values_do_not_care_for_normalisation(tmp_path: Path) -> None:
    fields = {"raw_file": "x_raw.b2nd"}
    other = entries(9, "Dataset746_B", constants=(ZSCORE,), **fields)
    folders = [folder(tmp_path, entries(9, **fields)), folder(tmp_path, other)]
    assert len(Collection.from_datasets(folders, needs=Needs(values="raw")).notes) == 2


def test_z_scored_cases_of_different_modality_may_be_joined(tmp_path: Path) -> None:
    t1 = entries(9, constants=(ZSCORE,), modality=("t1",))
    t2 = entries(9, "Dataset746_B", constants=(replace(ZSCORE, offset=9.0),), modality=("t2",))
    info = Collection.from_datasets([folder(tmp_path, t1), folder(tmp_path, t2)]).data_info(
        batch_size=1, steps_per_epoch=1
    )
    assert info.modality == ("mixed",)


@pytest.mark.parametrize(
    ("needs", "what"),
    [(Needs(values="raw"), "raw values"), (Needs(sidecars=(BodyMask,)), "the sidecar 'body'")],
)
def test_missing_needs_name_the_exact_command(tmp_path: Path, needs: Needs, what: str) -> None:
    place = folder(tmp_path, entries(8))
    with pytest.raises(DataError) as caught:
        Collection.from_datasets([place], needs=needs, trainer="Vox2VecTrainer")
    message = str(caught.value)
    assert f"Vox2VecTrainer needs {what}, which 8 preprocessed cases of Dataset745_A lack (case_00," in message
    assert message.endswith("Run: nnssl_plan_and_preprocess -d 745 -c 3d_fullres --for Vox2VecTrainer")


def test_a_folder_without_cases_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nnssl_plan_and_preprocess"):
        Collection.from_datasets([tmp_path / "nowhere"])


def test_small_cases_are_listed_and_mostly_empty_ones_refused() -> None:
    cases = entries(3)
    assert [e.case_id for e in small_cases(cases, one_group((21, 30, 40)))] == ["case_00"]
    assert small_cases(cases, one_group((8, 8, 8))) == ()
    with pytest.raises(DataError, match=r"less than half of it.*case_00 \(20, 30, 40\)"):
        small_cases(cases, one_group((20, 64, 40)))
    assert largest_view(one_group((8, 9, 10))) == (8, 9, 10)


def test_the_index_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    place = folder(tmp_path, entries(2))
    assert json.loads((place / "nnssl_index.json").read_text())["dataset"] == "Dataset745_A"
