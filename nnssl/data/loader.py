"""From sample keys to batches: draw, read, make views. The same batch whatever threads read it.

`make_batch` does it all at once; `ViewStream` reads ahead in threads. Threads and not processes: blosc2 and torch
release the interpreter lock, and a spawned worker would spend seconds importing both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from nnssl.data.collection import Collection
from nnssl.data.order import CaseOrder
from nnssl.data.placing import making_device, placed
from nnssl.data.reading import LoadedSample, load_sample
from nnssl.data.requirements import check_spec
from nnssl.data.sampler import draw_sample
from nnssl.errors import DataError, RecipeError
from nnssl.method import Batch, SourceInfo
from nnssl.needs import Needs
from nnssl.views.generate import make_view
from nnssl.views.spec import ViewSpec

MOST_WORKERS = 8
Device = torch.device | str


def case_order(collection: Collection, needs: Needs, *, batch_size: int, seed: int) -> CaseOrder:
    """The order in which a run sees the training cases."""
    pools, weights = collection.pools()
    return CaseOrder(
        pools,
        weights=weights,
        batch_size=batch_size,
        seed=seed,
        samples_per_case=needs.samples_per_case,
        min_cases=needs.min_cases,
    )


def make_batch(
    collection: Collection,
    spec: ViewSpec,
    needs: Needs,
    keys: Sequence[int] | Tensor,
    *,
    seed: int,
    batch_size: int | None = None,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """The batch of some sample keys, here and now.

    Args:
        collection: `collection.probe()` for held-out cases.
        spec: the method's views.
        needs: the method's needs.
        keys: sample keys; key = global batch * batch_size + place.
        seed: the run's seed.
        batch_size: of the run, over all ranks: it decides which case a key means. One case after the other if None.
        device: where the views are wanted, and made where it has float64.
        dtype: of the images.
    """
    check_spec(spec, needs)
    numbers = [int(key) for key in keys]
    needs_of_order = needs if batch_size is not None else Needs()
    order = case_order(collection, needs_of_order, batch_size=batch_size or 1, seed=seed)
    wanted = torch.device(device)
    maker = making_device(wanted)
    batch = _assemble(_load(collection, spec, needs, order, numbers, seed), spec, needs, seed, maker, dtype)
    return batch if maker == wanted else placed(batch, wanted)


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """How a global batch is cut: first by rank, then by micro-batch, always contiguously.

    Raises:
        RecipeError: batch_size is no multiple of ranks times micro-batches.
    """

    batch_size: int
    micros: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.micros * self.world):
            raise RecipeError(
                f"batch_size must be a multiple of ranks times micro-batches, {self.world} x {self.micros}; found "
                f"{self.batch_size}."
            )

    def keys(self, index: int, micro: int) -> list[int]:
        """Sample keys of one micro-batch of this rank."""
        size = self.batch_size // (self.micros * self.world)
        first = index * self.batch_size + (self.rank * self.micros + micro) * size
        return list(range(first, first + size))


class ViewStream:
    """Batches in order, read ahead by threads.

    On the CPU the threads also make the views; on other devices they read into pinned memory and the caller's stream
    makes the views. Use as a context manager, or call `close`.

    Args:
        collection, spec, needs, seed, device, dtype: as for `make_batch`.
        slicing: which samples of a global batch are ours.
        workers: threads; 0 reads in the caller; None takes the CPUs of this rank less one, 1 to 8.
        end: optimizer steps of the run, beyond which nothing is read.
    """

    def __init__(
        self,
        collection: Collection,
        spec: ViewSpec,
        needs: Needs,
        *,
        seed: int,
        slicing: Slicing,
        device: Device = "cpu",
        dtype: torch.dtype = torch.float32,
        workers: int | None = None,
        end: int | None = None,
    ) -> None:
        check_spec(spec, needs)
        self._collection, self._spec, self._needs, self._seed = collection, spec, needs, seed
        self._order = case_order(collection, needs, batch_size=slicing.batch_size, seed=seed)
        self._slicing, self._device, self._dtype, self._end = slicing, torch.device(device), dtype, end
        self._maker = making_device(self._device)
        self._workers = default_workers(slicing.world) if workers is None else workers
        self._pool = ThreadPoolExecutor(self._workers, "nnssl-views") if self._workers else None
        self._ahead: dict[int, Future[list[LoadedSample] | Batch]] = {}
        self.waited_seconds = 0.0

    def batch(self, index: int, micro: int = 0) -> Batch:
        """Micro-batch `micro` of optimizer step `index`; asking in order is fast, any order is right.

        Raises:
            DataError: a case cannot be read (names the case and the file), or there is not enough memory.
        """
        number = index * self._slicing.micros + micro
        started = time.perf_counter()
        try:
            if self._pool is None:
                loaded = self._prepare(number)
            else:
                self._read_ahead(number)
                loaded = self._ahead.pop(number).result()
        except MemoryError as error:
            raise DataError(
                f"There is not enough memory to read and make the views of step {index} ({error}). Use fewer workers "
                f"(-num_workers) or a smaller batch_size; a run that was saved goes on with --c."
            ) from error
        self.waited_seconds += time.perf_counter() - started
        if isinstance(loaded, Batch):
            return loaded if self._maker == self._device else placed(loaded, self._device)
        return _assemble(loaded, self._spec, self._needs, self._seed, self._device, self._dtype)

    def close(self) -> None:
        """Stop reading; returns when no thread is left."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_ahead(self, number: int) -> None:
        """Have micro-batch `number` and the next ones under way, two a worker; drop what was read for nothing."""
        if self._pool is None:
            return
        wanted = range(number, number + 2 * self._workers + 1)
        for stale in [known for known in self._ahead if known not in wanted]:
            self._ahead.pop(stale).cancel()
        last = None if self._end is None else self._end * self._slicing.micros
        for ahead in wanted:
            if ahead not in self._ahead and (last is None or ahead < last or ahead == number):
                self._ahead[ahead] = self._pool.submit(self._prepare, ahead)

    def _prepare(self, number: int) -> list[LoadedSample] | Batch:
        """What a worker does for one micro-batch."""
        keys = self._slicing.keys(*divmod(number, self._slicing.micros))
        loaded = _load(self._collection, self._spec, self._needs, self._order, keys, self._seed)
        if self._maker.type == "cpu":
            return _assemble(loaded, self._spec, self._needs, self._seed, self._maker, self._dtype)
        return [sample.pinned() for sample in loaded] if self._device.type == "cuda" else loaded


def default_workers(world: int = 1) -> int:
    """Reading threads for one of `world` ranks on this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return min(max(cpus // max(ranks, 1) - 1, 1), MOST_WORKERS)


def _load(
    collection: Collection, spec: ViewSpec, needs: Needs, order: CaseOrder, keys: Sequence[int], seed: int
) -> list[LoadedSample]:
    """Draw and read the samples of some keys."""
    return [load_sample(draw_sample(collection, spec, order.entry(key), key, seed), spec, needs) for key in keys]


def _assemble(
    samples: Sequence[LoadedSample], spec: ViewSpec, needs: Needs, seed: int, device: torch.device, dtype: torch.dtype
) -> Batch:
    """Make the views of loaded samples on `device`."""
    samples = [sample.to(device) for sample in samples]
    keys = [sample.draw.key for sample in samples]
    views = {
        group.name: make_view(group, keys, [sample.views[group.name] for sample in samples], seed=seed, dtype=dtype)
        for group in spec.groups
    }
    sources = {source.name: _source_info(source.name, samples, needs, device) for source in spec.sources}
    return Batch(views=views, sources=sources, keys=torch.tensor(keys, dtype=torch.int64))


def _source_info(name: str, samples: Sequence[LoadedSample], needs: Needs, device: torch.device) -> SourceInfo:
    """Where the boxes of one source lie."""
    draws = [sample.draw.sources[name] for sample in samples]
    entries = [draw.entry for draw in draws]

    def tensor(values: Sequence[object], dtype: torch.dtype = torch.float64) -> Tensor:
        """One row a sample."""
        return torch.from_numpy(np.asarray(values)).to(device=device, dtype=dtype)

    sidecars: Mapping[str, Sequence[Mapping[str, Tensor]]] = {
        sidecar.name: [sample.sidecars[name][sidecar.name] for sample in samples] for sidecar in needs.sidecars
    }
    return SourceInfo(
        case_ids=tuple(entry.case_id for entry in entries),
        subjects=tuple(entry.subject for entry in entries),
        to_world=tensor([entry.to_world for entry in entries]),
        spacing_mm=tensor([entry.spacing_mm for entry in entries]),
        box=tensor([np.stack([draw.box.lower, draw.box.size]) for draw in draws], torch.int64),
        anchor_mm=tensor([draw.anchor_mm for draw in draws]),
        sidecars=sidecars,
    )
