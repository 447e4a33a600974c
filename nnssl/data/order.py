"""Which case is seen when: a function of the seed and the step, with no state.

Every pass over the cases is a random permutation, cut into floor(n / m) batches of m cases: the cases of a batch are
distinct and every case is seen equally often, up to the few that a pass leaves over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nnssl.data.case import CaseEntry
from nnssl.engine.randomness import numpy_generator
from nnssl.errors import DataError, RecipeError


class CaseOrder:
    """The cases of every global batch.

    Args:
        pools: cases by data set; one pool holds everything if there are no weights.
        weights: share of each pool in a batch, any positive scale; shares that are no whole number of cases are
            rounded up or down at random, so that they hold on average.
        batch_size: samples per optimizer step, B, over all ranks and micro-batches.
        samples_per_case: consecutive samples of a batch that come from one case.
        min_cases: fewest cases a batch must hold.
        seed: of the permutations.

    Raises:
        RecipeError: batch_size does not fit samples_per_case or min_cases.
        DataError: a batch needs more distinct cases than a pool has.
    """

    def __init__(
        self,
        pools: Sequence[Sequence[CaseEntry]],
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        samples_per_case: int = 1,
        min_cases: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % samples_per_case:
            raise RecipeError(
                f"batch_size must be a positive multiple of the {samples_per_case} samples that this method draws from "
                f"each case; found {batch_size}."
            )
        self._cases = batch_size // samples_per_case
        if self._cases < min_cases:
            raise RecipeError(
                f"This method's loss needs at least {min_cases} cases in a batch; batch_size {batch_size} with "
                f"{samples_per_case} samples a case gives {self._cases}. Use --set batch_size="
                f"{min_cases * samples_per_case} or more."
            )
        shares = np.ones(1) if weights is None else np.asarray(weights, dtype=np.float64) / np.sum(weights)
        # Rounded, or 0.1 * 30 cases would be 3.0000000000000004 and reserve a fourth place.
        self._edges = np.round(np.concatenate([[0.0], np.cumsum(shares)]) * self._cases, 9)
        self._places = np.ceil(np.diff(self._edges)).astype(int).tolist()
        self._pools, self._seed = [tuple(pool) for pool in pools], seed
        self.batch_size, self._repeats = batch_size, samples_per_case
        for pool, places in zip(self._pools, self._places, strict=True):
            if places > len(pool):
                names = ", ".join(sorted({entry.dataset for entry in pool})) or "no data"
                most = max(len(pool), 1) * samples_per_case
                raise DataError(
                    f"A batch of {batch_size} samples takes {places} distinct cases from {names}, which has "
                    f"{len(pool)} training cases. Use --set batch_size={most} or less, or more scans."
                )

    def entry(self, key: int) -> CaseEntry:
        """The case of sample `key` = batch * batch_size + place."""
        batch, place = divmod(key, self.batch_size)
        return self.batch(batch)[place]

    def batch(self, index: int) -> tuple[CaseEntry, ...]:
        """The cases of global batch `index`, one a sample."""
        shift = numpy_generator(self._seed, index, "mix").random() if len(self._pools) > 1 else 0.0
        ends = np.ceil(self._edges - shift).clip(0, self._cases).astype(int)
        ends[-1] = self._cases
        chosen: list[CaseEntry] = []
        for number, (pool, places) in enumerate(zip(self._pools, self._places, strict=True)):
            turn, position = divmod(index, max(len(pool) // max(places, 1), 1))
            order = _permutation(self._seed, number, turn, len(pool))
            taken = order[position * places :][: min(int(ends[number + 1] - ends[number]), places)]
            chosen += [pool[case] for case in taken]
        if len(self._pools) > 1:
            # Mixed, so that no rank or micro-batch sees one data set only.
            chosen = [chosen[place] for place in numpy_generator(self._seed, index, "mixed").permutation(len(chosen))]
        return tuple(entry for entry in chosen for _ in range(self._repeats))


@lru_cache(maxsize=16)
def _permutation(seed: int, pool: int, turn: int, count: int) -> npt.NDArray[np.int64]:
    """The order of one pass over one pool; cached, because consecutive batches share it."""
    return numpy_generator(seed, turn, "order", pool).permutation(count)
