"""Which case is seen when: distinct in a batch, evenly covered, and a function of seed and step alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnssl.data.case import CaseEntry
from nnssl.data.order import CaseOrder
from nnssl.errors import DataError, RecipeError


def cases(count: int, dataset: str = "Dataset001_A") -> tuple[CaseEntry, ...]:
    return tuple(
        CaseEntry(
            case_id=f"{dataset}_{number}", dataset=dataset, folder=Path(), file="", shape=(8, 8, 8), channels=1,
            dtype="float32", spacing_mm=(1, 1, 1), to_world=(), subject=str(number), modality=("ct",),
        )
        for number in range(count)
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 8), repeats=st.integers(1, 3), seed=st.integers(0, 5))
def test_cases_of_a_batch_are_distinct_and_a_pass_covers_evenly(count: int, size: int, repeats: int, seed: int) -> None:
    if size > count:
        return
    order = CaseOrder([cases(count)], batch_size=size * repeats, samples_per_case=repeats, seed=seed)
    batches_a_pass = count // size
    for turn in range(2):
        seen: Counter[str] = Counter()
        for index in range(turn * batches_a_pass, (turn + 1) * batches_a_pass):
            batch = order.batch(index)
            assert len(batch) == size * repeats
            assert all(n == repeats for n in Counter(entry.case_id for entry in batch).values())
            assert [batch[i].case_id for i in range(0, len(batch), repeats)] == [
                batch[i].case_id for i in range(repeats - 1, len(batch), repeats)
            ]
            seen.update({entry.case_id for entry in batch})
        assert set(seen.values()) == {1} and len(seen) == size * batches_a_pass


def test_a_key_means_the_same_case_in_any_order_of_asking() -> None:
    forward = CaseOrder([cases(10)], batch_size=3, seed=4)
    expected = [entry.case_id for index in range(8) for entry in forward.batch(index)]
    fresh = CaseOrder([cases(10)], batch_size=3, seed=4)
    for key in (23, 0, 11, 5):
        assert fresh.entry(key).case_id == expected[key]
    other = CaseOrder([cases(10)], batch_size=3, seed=5)
    assert [other.entry(key).case_id for key in range(24)] != expected


def test_a_mix_holds_on_average_and_cases_stay_distinct() -> None:
    pools = [cases(20, "Dataset001_A"), cases(6, "Dataset002_B")]
    order = CaseOrder(pools, weights=[1, 2], batch_size=4, seed=0)
    counts: Counter[str] = Counter()
    for index in range(600):
        batch = order.batch(index)
        assert len({entry.case_id for entry in batch}) == len(batch) == 4
        counts.update(entry.dataset for entry in batch)
    assert counts["Dataset002_B"] / 2400 == pytest.approx(2 / 3, abs=0.02)
    each = Counter(entry.case_id for index in range(600) for entry in order.batch(index))
    share = np.array([each[entry.case_id] for entry in pools[1]])
    assert share.min() > 0.85 * share.mean()


def test_whole_shares_are_exact() -> None:
    order = CaseOrder([cases(30, "Dataset001_A"), cases(30, "Dataset002_B")], weights=[0.1, 0.9], batch_size=30, seed=0)
    for index in range(5):
        assert Counter(entry.dataset for entry in order.batch(index)) == {"Dataset001_A": 3, "Dataset002_B": 27}


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"batch of 6 samples takes 6 distinct cases from Dataset001_A, which has 5"):
        CaseOrder([cases(5)], batch_size=6, seed=0)


def test_a_batch_that_does_not_fit_the_method_is_refused() -> None:
    with pytest.raises(RecipeError, match="multiple of the 3 samples"):
        CaseOrder([cases(5)], batch_size=4, samples_per_case=3, seed=0)
    with pytest.raises(RecipeError, match=r"at least 3 cases.*batch_size=6"):
        CaseOrder([cases(5)], batch_size=4, samples_per_case=2, min_cases=3, seed=0)
