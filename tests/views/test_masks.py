"""Block masks hide exactly as many blocks as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnssl.engine.randomness import numpy_generator
from nnssl.errors import PlanError
from nnssl.views.masks import draw_hidden, render
from nnssl.views.spec import BlockMask


@given(
    grid=st.tuples(*[st.integers(1, 4)] * 3),
    block=st.tuples(*[st.integers(1, 4)] * 3),
    ratio=st.floats(0, 1),
    key=st.integers(0, 100),
)
def test_the_hidden_count_is_exact_and_blocks_are_whole(grid, block, ratio, key) -> None:  # type: ignore[no-untyped-def]
    size = tuple(n * b for n, b in zip(grid, block, strict=True))
    mask = BlockMask(block=block, ratio=(ratio, ratio))
    hidden = draw_hidden(numpy_generator(0, key, "mask"), mask, size)
    full = render([hidden], mask, size, torch.device("cpu"))
    assert full.shape == (1, 1, *size)
    assert int(full.sum()) == round(ratio * np.prod(grid)) * np.prod(block)
    for index in np.ndindex(*grid):
        cell = full[0, 0][tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, block, strict=True))]
        assert cell.all() == cell.any() == (np.ravel_multi_index(index, grid) in hidden)


def test_the_ratio_is_drawn_from_its_range_and_every_block_has_its_turn() -> None:
    mask = BlockMask(block=(4, 4, 4), ratio=(0.5, 0.75))
    drawn = [draw_hidden(numpy_generator(0, key, "mask"), mask, (16, 16, 16)) for key in range(300)]
    counts = [len(one) for one in drawn]
    assert min(counts) >= 32 and max(counts) <= 48 and len(set(counts)) > 10
    often = np.bincount(np.concatenate(drawn), minlength=64) / 300
    assert often.min() > 0.5 and often.max() < 0.75


def test_a_view_that_is_no_multiple_of_the_block_is_refused() -> None:
    with pytest.raises(PlanError, match=r"multiple of the block.*\(16, 16, 18\).*\(4, 4, 4\)"):
        draw_hidden(numpy_generator(0, 0), BlockMask(block=(4, 4, 4), ratio=(0.5, 0.5)), (16, 16, 18))
