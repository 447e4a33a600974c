"""One function over many cases, in threads.

Threads and not processes: decompression, hashing, matrix products and compression all run outside Python's lock, while
every process would first import nnU-Net for seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, TypeVar

from nnssl.errors import DataError


class Work(Protocol):
    """What can be worked on: something with a name and files."""

    @property
    def case_id(self) -> str:
        """Its name, for messages."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, for messages."""
        ...


T = TypeVar("T")
W = TypeVar("W", bound=Work)
W_co = TypeVar("W_co", bound=Work, covariant=True)


class Works(Protocol[W_co]):
    """Cases that are counted and come one by one: a list, or something that makes them as they are asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __iter__(self) -> Iterator[W_co]:
        """In the order in which they are begun."""
        ...


def for_each_case(
    function: Callable[[W], T], cases: Works[W], *, workers: int, title: str
) -> Iterator[tuple[W, T | str]]:
    """(case, result) as they are done, with a progress bar; for a case that cannot be used, the reason as text.

    Anything but an unusable case ends the work: cases not begun are cancelled and the error is raised.

    Args:
        function: called in a thread with one case.
        cases: in the order in which they are begun.
        workers: number of threads.
        title: of the progress bar.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    # one core a worker: products that spread over all cores would get in each other's way
    with (
        threadpool_limits(1),
        tqdm(total=len(cases), desc=title, unit="case", dynamic_ncols=True, disable=not len(cases)) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        running: dict[Future[T], W] = {}
        waiting = iter(cases)
        try:
            while True:
                # only as many as can run: a case that waits in the queue holds nothing, one that is done holds arrays
                while len(running) < workers and (case := next(waiting, None)) is not None:
                    running[pool.submit(function, case)] = case
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    bar.update()
                    case = running.pop(future)
                    result: T | str = _result(future, case, workers)
                    yield case, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[T], case: W, workers: int) -> T | str:
    try:
        return future.result()
    except DataError as error:
        return str(error)
    except MemoryError:
        return (
            f"{case.files[0]} needs more memory than there is with {workers} worker{'s' if workers > 1 else ''}. Try "
            f"-np 1, or a coarser spacing (-overwrite_target_spacing)."
        )
    except Exception as error:
        error.add_note(f"while working on case {case.case_id} ({case.files[0]})")
        raise
