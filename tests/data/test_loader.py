"""Batches are functions of keys; threads, slices and the order of asking do not matter; failures are told at once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.data import reading
from nnssl.data.collection import Collection
from nnssl.data.loader import Slicing, ViewStream, default_workers, make_batch
from nnssl.errors import DataError, PluginError, RecipeError
from nnssl.method import Batch
from nnssl.needs import Needs
from nnssl.views.intensity import Contrast, Gamma, GaussianBlur, GaussianNoise
from nnssl.views.spec import BlockMask, Geometry, Intensity, Source, ViewGroup, ViewSpec
from tests.volumes import collect, noise_cases, one_group, ramp, write_case

OPS = Intensity(ops=(GaussianNoise((0.0, 0.1)), GaussianBlur((0.1, 1.0)), Contrast((0.7, 1.3)), Gamma((0.7, 1.5))))
SPEC = ViewSpec(
    sources=(Source(size=((14, 18),) * 3),),
    groups=(
        ViewGroup(
            name="global", count=2, size=(8, 8, 8), intensity=OPS, min_overlap=0.2,
            geometry=Geometry(scale=(0.8, 1.25), rotation_deg=20, flip=(0.5, 0.5, 0.5)),
        ),
        ViewGroup(name="local", count=1, size=(4, 4, 4), mask=BlockMask(block=(2, 2, 2), ratio=(0.5, 0.75))),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return noise_cases(tmp_path_factory.mktemp("data"), 7, channels=2)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    found = {"keys": batch.keys}
    for name, view in batch.views.items():
        found |= {f"{name}.image": view.image, f"{name}.valid": view.valid, f"{name}.to_source": view.to_source}
        found |= {f"{name}.{draw}": value for draw, value in view.draws.items()}
        if view.mask is not None:
            found[f"{name}.mask"] = view.mask
    for name, source in batch.sources.items():
        found |= {f"{name}.box": source.box, f"{name}.anchor": source.anchor_mm, f"{name}.world": source.to_world}
    return found


def assert_equal(one: Batch, two: Batch) -> None:
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def rows(batch: Batch, part: slice) -> dict[str, torch.Tensor]:
    return {name: value[part] for name, value in tensors(batch).items()}


def test_a_batch_has_the_promised_shapes(data: Collection) -> None:
    batch = make_batch(data, SPEC, Needs(), range(3), seed=0, batch_size=3)
    view, local, source = batch.views["global"], batch.views["local"], batch.sources["case"]
    assert view.image.shape == (3, 2, 2, 8, 8, 8) and view.image.dtype == torch.float32
    assert view.valid.shape == (3, 2, 1, 8, 8, 8) and view.valid.dtype == torch.bool
    assert view.to_source.shape == (3, 2, 4, 4) and view.to_source.dtype == torch.float64
    assert view.mask is None and local.mask is not None and local.mask.shape == (3, 1, 1, 4, 4, 4)
    assert {name: tuple(value.shape) for name, value in view.draws.items()} == {
        "flip": (3, 2, 3), "rot90": (3, 2), "scale": (3, 2, 3), "rotation_deg": (3, 2, 3), "origin": (3, 2, 3),
    }  # fmt: skip
    assert source.box.shape == (3, 2, 3) and source.anchor_mm.shape == (3, 3) and source.spacing_mm.shape == (3, 3)
    assert len(set(source.case_ids)) == 3 and source.subjects == source.case_ids
    assert batch.keys.tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_worker_count_gives_the_same_bits(data: Collection, workers: int) -> None:
    with ViewStream(data, SPEC, Needs(), seed=5, slicing=Slicing(batch_size=3), workers=workers, end=6) as stream:
        for index in range(6):
            expected = make_batch(data, SPEC, Needs(), range(3 * index, 3 * index + 3), seed=5, batch_size=3)
            assert_equal(stream.batch(index), expected)
        assert stream.waited_seconds > 0


def test_any_order_of_asking_gives_the_same_bits(data: Collection) -> None:
    with ViewStream(data, SPEC, Needs(), seed=5, slicing=Slicing(batch_size=3), workers=2) as stream:
        for index in (4, 0, 1, 9, 3):
            expected = make_batch(data, SPEC, Needs(), range(3 * index, 3 * index + 3), seed=5, batch_size=3)
            assert_equal(stream.batch(index), expected)


@pytest.mark.parametrize(("world", "micros"), [(2, 1), (1, 3), (3, 2)])
def test_ranks_and_micro_batches_are_slices_of_the_whole(data: Collection, world: int, micros: int) -> None:
    whole = make_batch(data, SPEC, Needs(), range(6, 12), seed=1, batch_size=6)
    size = 6 // (world * micros)
    for rank in range(world):
        slicing = Slicing(batch_size=6, micros=micros, rank=rank, world=world)
        with ViewStream(data, SPEC, Needs(), seed=1, slicing=slicing, workers=1) as stream:
            for micro in range(micros):
                first = (rank * micros + micro) * size
                for name, value in tensors(stream.batch(1, micro)).items():
                    assert torch.equal(value, rows(whole, slice(first, first + size))[name]), name


def test_float64_views_agree_with_float32(data: Collection) -> None:
    single = make_batch(data, SPEC, Needs(), [0, 1], seed=0).views["global"]
    double = make_batch(data, SPEC, Needs(), [0, 1], seed=0, dtype=torch.float64).views["global"]
    assert double.image.dtype == torch.float64
    torch.testing.assert_close(double.image.float(), single.image, atol=1e-4, rtol=1e-4)


def test_the_seed_matters(data: Collection) -> None:
    one, two = (make_batch(data, SPEC, Needs(), [0], seed=seed).views["global"].image for seed in (0, 1))
    assert not torch.equal(one, two)


def test_samples_of_one_case_are_different_boxes(data: Collection) -> None:
    needs = Needs(samples_per_case=2)
    with ViewStream(data, SPEC, needs, seed=0, slicing=Slicing(batch_size=4), workers=1, end=1) as stream:
        batch = stream.batch(0)
    ids = batch.sources["case"].case_ids
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert not torch.equal(batch.views["global"].image[0], batch.views["global"].image[1])


def test_a_failing_read_names_the_case_and_the_file_at_once(data: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reading.read_box

    def broken(path: Path, lower: list[int], upper: list[int]) -> np.ndarray:
        if path.name == "case_3.b2nd":
            raise OSError("input/output error")
        return real(path, lower, upper)

    monkeypatch.setattr(reading, "read_box", broken)
    started = time.perf_counter()
    slicing = Slicing(batch_size=7)
    with (
        pytest.raises(DataError, match=r"Case case_3 .*case_3\.b2nd: input/output error"),
        ViewStream(data, SPEC, Needs(), seed=0, slicing=slicing, workers=2) as stream,
    ):
        stream.batch(0)
    assert time.perf_counter() - started < 10


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "broken", ramp((20, 20, 20)))
    entry.path.write_bytes(entry.path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"Case broken .*broken\.b2nd"):
        make_batch(collect(entry), one_group((8, 8, 8)), Needs(), [0], seed=0)


def test_closing_leaves_no_thread(data: Collection) -> None:
    before = set(threading.enumerate())
    stream = ViewStream(data, SPEC, Needs(), seed=0, slicing=Slicing(batch_size=2), workers=3)
    stream.batch(0)
    assert set(threading.enumerate()) - before
    stream.close()
    assert not set(threading.enumerate()) - before


def test_nothing_is_read_beyond_the_end(data: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = reading.read_box
    monkeypatch.setattr(reading, "read_box", lambda path, low, high: (read.append(path.name), real(path, low, high))[1])
    with ViewStream(data, SPEC, Needs(), seed=0, slicing=Slicing(batch_size=1), workers=2, end=2) as stream:
        stream.batch(0)
        stream.batch(1)
    assert len(read) == 2


def test_raw_values_are_read_bit_equal_where_a_method_needs_them(tmp_path: Path) -> None:
    from nnssl.data.store import write_array
    from nnssl.views.spec import IntegerCrop

    hounsfield = np.random.default_rng(0).integers(-1024, 2000, (1, 12, 12, 12)).astype(np.int16)
    entry = write_case(tmp_path, "a", ramp((12, 12, 12))[:1], raw_file="a_raw.b2nd")
    write_array(tmp_path / "a_raw.b2nd", hounsfield, (8, 8, 8))
    spec = one_group((12, 12, 12), geometry=IntegerCrop())
    image = make_batch(collect(entry), spec, Needs(values="raw"), [0], seed=0).views["v"].image
    assert np.array_equal(image[0, 0].numpy(), hounsfield.astype(np.float32))
    with pytest.raises(DataError, match="no raw values"):
        make_batch(collect(replace(entry, raw_file=None)), spec, Needs(values="raw"), [0], seed=0)


def test_only_what_the_views_touch_is_read(data: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = reading.read_box

    def counting(path: Path, lower: list[int], upper: list[int]) -> np.ndarray:
        sizes.append(int(np.prod(np.subtract(upper, lower))))
        return real(path, lower, upper)

    monkeypatch.setattr(reading, "read_box", counting)
    for key in range(20):
        sizes.clear()
        make_batch(data, one_group((4, 4, 4), geometry=Geometry(), count=2), Needs(), [key], seed=0)
        assert sum(sizes) <= 2 * 4**3


def test_sidecars_come_with_their_case(tmp_path: Path) -> None:
    from nnssl.data.sidecar import BodyMask, write_sidecar

    entries = []
    for number in range(2):
        arrays = {"mask": np.full((2, 2, 2), bool(number)), "first": np.zeros(3, int), "stride": np.full(3, 6)}
        write_sidecar(tmp_path / f"c{number}.body.npz", BodyMask, arrays)
        entries.append(write_case(tmp_path, f"c{number}", ramp((12, 12, 12)), sidecars={"body": f"c{number}.body.npz"}))
    needs = Needs(sidecars=(BodyMask,))
    source = make_batch(collect(*entries), one_group((4, 4, 4)), needs, [0, 1], seed=0, batch_size=2).sources["case"]
    for case_id, arrays in zip(source.case_ids, source.sidecars["body"], strict=True):
        assert bool(arrays["mask"].all()) == (case_id == "c1")


def test_batches_that_cannot_be_cut_evenly_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"ranks times micro-batches, 2 x 3; found 8"):
        Slicing(batch_size=8, micros=3, world=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (one_group((4, 4, 4), source=(4, 4)), None),
        (ViewSpec(sources=(), groups=(ViewGroup(name="v", size=(4, 4, 4)),)), "names source 'case'"),
        (ViewSpec(sources=(Source(size=((4, 4),) * 3),), groups=()), "at least one view group"),
        (
            ViewSpec(
                sources=(Source(anchor="body", size=((4, 4),) * 3),), groups=(ViewGroup(name="v", size=(4,) * 3),)
            ),
            "must hold BodyMask",
        ),
        (
            ViewSpec(
                sources=(Source(pick="partner", size=((4, 4),) * 3),), groups=(ViewGroup(name="v", size=(4,) * 3),)
            ),
            "must hold a table",
        ),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(
    data: Collection, spec: ViewSpec, message: str | None
) -> None:
    if message is None:
        make_batch(data, spec, Needs(), [0], seed=0)
        return
    with pytest.raises(PluginError, match=message):
        make_batch(data, spec, Needs(), [0], seed=0)


def test_the_default_worker_count_leaves_a_cpu_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert default_workers() == 8
    assert default_workers(world=32) == 1
