"""Voxels on the disk: what is written is read, box by box, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nnssl.data.store import FLOAT16_TOLERANCE, read_box, read_header, smallest_dtype, write_array
from nnssl.errors import DataError


@pytest.fixture
def volume():
    return np.random.default_rng(0).standard_normal((2, 21, 33, 18)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_boxes_are_bit_equal_to_the_array(tmp_path, volume, dtype):
    array = (volume * 100).astype(dtype)
    write_array(tmp_path / "case.b2nd", array, (16, 16, 16))
    box = read_box(tmp_path / "case.b2nd", (3, 0, 5), (21, 10, 6))
    assert box.dtype == dtype
    np.testing.assert_array_equal(box, array[:, 3:21, 0:10, 5:6])
    assert read_header(tmp_path / "case.b2nd") == ((2, 21, 33, 18), np.dtype(dtype).name)
    assert [file.name for file in tmp_path.iterdir()] == ["case.b2nd"]


def test_nnunets_own_dataset_reads_the_file(tmp_path, volume):
    import blosc2

    write_array(tmp_path / "case.b2nd", volume, (16, 16, 16))
    opened = blosc2.open(urlpath=str(tmp_path / "case.b2nd"), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
    np.testing.assert_array_equal(opened[:], volume)


def test_threads_read_at_the_same_time(tmp_path, volume):
    write_array(tmp_path / "case.b2nd", volume, (8, 8, 8))

    def read(start):
        return read_box(tmp_path / "case.b2nd", (start, 0, 0), (start + 4, 33, 18))

    with ThreadPoolExecutor(8) as pool:
        for start, box in zip(range(16), pool.map(read, range(16)), strict=True):
            np.testing.assert_array_equal(box, volume[:, start : start + 4])


@pytest.mark.parametrize(("lower", "upper"), [((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (22, 2, 2)), ((3, 0, 0), (3, 2, 2))])
def test_a_box_outside_the_case_is_refused(tmp_path, volume, lower, upper):
    write_array(tmp_path / "case.b2nd", volume, (16, 16, 16))
    with pytest.raises(DataError, match=r"must lie inside .*case\.b2nd"):
        read_box(tmp_path / "case.b2nd", lower, upper)


def test_missing_and_truncated_files_are_named(tmp_path, volume):
    with pytest.raises(DataError, match=r"absent\.b2nd is missing"):
        read_box(tmp_path / "absent.b2nd", (0, 0, 0), (1, 1, 1))
    file = tmp_path / "case.b2nd"
    write_array(file, volume, (16, 16, 16))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"case\.b2nd"):
        read_box(file, (0, 0, 0), (21, 33, 18))


def test_float16_is_used_where_it_is_good_enough(volume):
    assert smallest_dtype(volume).dtype == np.float16
    error = np.abs(smallest_dtype(volume).astype(np.float32) - volume).max()
    assert error <= FLOAT16_TOLERANCE * volume.std()


@pytest.mark.parametrize("outlier", [60.3, 1e6])
def test_heavy_tails_stay_float32(volume, outlier):
    volume[1, 0, 0, 0] = outlier
    assert smallest_dtype(volume) is volume


def test_a_far_value_that_float16_happens_to_hold_does_not_matter(volume):
    volume[1, 0, 0, 0] = 64.0
    assert smallest_dtype(volume).dtype == np.float16
