"""Preprocessed cases against nnU-Net's DefaultPreprocessor, on phantoms and on real scans."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from nnssl.planning.cropping import nonzero_box, nonzero_mask
from nnssl.planning.grid import case_plan
from nnssl.planning.preprocess import onto_grid
from nnssl.planning.reading import read_image
from tests.tiny import make_raw_dataset, tiny_plans, write_image


def plans_for(files, spacing, *, scheme=None, masked=False, transpose=(0, 1, 2), **resampling):
    plans = tiny_plans("Dataset745_Tiny", spacing_mm=spacing)
    configuration = plans["configurations"]["3d_fullres"]
    channels = len(files)
    configuration["normalization_schemes"] = [scheme or "ZScoreNormalization"] * channels
    configuration["use_mask_for_norm"] = [masked] * channels
    configuration["resampling_fn_data_kwargs"].update(resampling)
    plans["foreground_intensity_properties_per_channel"] = {
        str(channel): plans["foreground_intensity_properties_per_channel"]["0"] for channel in range(channels)
    }
    plans["transpose_forward"] = list(transpose)
    return plans


def nnunets(files, plans):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(file) for file in files], None, manager, configuration, {}
    )
    return data, properties


def check_equal(files, plans):
    expected, properties = nnunets(files, plans)
    ours = onto_grid(read_image(files, plans["image_reader_writer"]), case_plan(plans, "3d_fullres"))
    assert ours.data.shape == expected.shape
    for mine, theirs in zip(ours.data, expected, strict=True):
        assert np.abs(mine - theirs).max() < 1e-4 * theirs.std()
    assert [list(side) for side in ours.box] == [list(side) for side in properties["bbox_used_for_cropping"]]
    return ours


@pytest.mark.parametrize("kind", ["ct", "mr", "two"])
@pytest.mark.parametrize("spacing", [(1.5, 1.25, 1.0), (2.0, 1.0, 1.3), (6.0, 1.0, 1.0)])
def test_phantoms_equal_nnunets(tmp_path, kind, spacing):
    folder = make_raw_dataset(tmp_path, 745, 1, kind=kind)
    files = sorted((folder / "imagesTr").iterdir())
    scheme = "CTNormalization" if kind == "ct" else "ZScoreNormalization"
    check_equal(files, plans_for(files, spacing, scheme=scheme, masked=kind == "two"))


@pytest.mark.parametrize("scheme", ["NoNormalization", "RescaleTo01Normalization", "ZScoreNormalization"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_transposed_phantoms_equal_nnunets(tmp_path, scheme, transpose):
    folder = make_raw_dataset(tmp_path, 745, 1, kind="mr")
    files = sorted((folder / "imagesTr").iterdir())
    check_equal(files, plans_for(files, (1.1, 1.6, 1.2), scheme=scheme, transpose=transpose))


@pytest.mark.parametrize("function", ["resample_torch_fornnunet", "no_resampling_hack"])
def test_other_resampling_functions_are_nnunets_own(tmp_path, function):
    folder = make_raw_dataset(tmp_path, 745, 1, kind="mr")
    files = sorted((folder / "imagesTr").iterdir())
    plans = plans_for(files, (1.2, 1.2, 1.2))
    configuration = plans["configurations"]["3d_fullres"]
    configuration["resampling_fn_data"] = function
    options = {"is_seg": False, "force_separate_z": False} if "torch" in function else {}
    configuration["resampling_fn_data_kwargs"] = configuration["resampling_fn_seg_kwargs"] = options
    configuration["resampling_fn_seg"] = function
    check_equal(files, plans)


def test_hippocampus_equals_nnunets(shared_data):
    for file in sorted((shared_data / "Task04_Hippocampus" / "imagesTr").iterdir())[::16]:
        check_equal([file], plans_for([file], (1.0, 1.0, 1.0)))
        check_equal([file], plans_for([file], (1.3, 0.8, 0.9)))


def test_head_neck_ct_equals_nnunets(shared_data):
    for file in sorted((shared_data / "OpenKBP_HN" / "imagesTr").iterdir())[::8]:
        check_equal([file], plans_for([file], (2.5, 3.5, 3.5), scheme="CTNormalization"))


def test_chest_ct_equals_nnunets(shared_data):
    files = [shared_data / "unlabelled" / "ct_chest_lidc0314.nii.gz"]
    check_equal(files, plans_for(files, (3.0, 3.2, 3.2), scheme="CTNormalization"))


@pytest.mark.parametrize(
    ("spacing", "transpose"),
    [((10.0, 3.0, 3.0), (0, 1, 2)), ((4.0, 2.8, 2.8), (0, 1, 2)), ((3.0, 11.0, 3.0), (1, 0, 2))],
)
def test_anisotropic_chest_ct_equals_nnunets(shared_data, tmp_path, spacing, transpose):
    image = SimpleITK.ReadImage(str(shared_data / "unlabelled" / "ct_chest_lidc0314.nii.gz"))[:, :, ::4]
    assert image.GetSpacing()[2] > 3 * image.GetSpacing()[0]
    file = tmp_path / "thick_0000.nii.gz"
    SimpleITK.WriteImage(image, str(file))
    check_equal([file], plans_for([file], spacing, scheme="CTNormalization", transpose=transpose))


@pytest.mark.parametrize("masked", [False, True])
def test_head_mr_and_its_gamma_equal_nnunets(shared_data, tmp_path, masked):
    original = shared_data / "unlabelled" / "mr_t1_head_datalad.nii.gz"
    image = SimpleITK.ReadImage(str(original), SimpleITK.sitkFloat32)[:, :, 20:70]  # nnU-Net takes seconds for all
    gamma = SimpleITK.Pow(image / float(SimpleITK.GetArrayViewFromImage(image).max()), 0.5)
    files = [tmp_path / "head_0000.nii.gz", tmp_path / "head_0001.nii.gz"]
    for channel, file in zip((image, gamma), files, strict=True):
        SimpleITK.WriteImage(channel, str(file))
    check_equal(files, plans_for(files, (1.9, 1.7, 1.8), masked=masked))


def test_world_coordinates_survive_crop_transposition_and_resampling(tmp_path):
    """Every voxel of three ramps holds its own mm coordinate, so the stored voxels must say what `to_world` says."""
    shape, spacing = (20, 24, 28), (2.0, 1.5, 1.0)
    image = SimpleITK.Image(*reversed(shape), SimpleITK.sitkFloat32)
    image.SetSpacing(tuple(reversed(spacing)))
    image.SetOrigin((-31.0, 12.0, 77.0))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    index = np.stack(np.meshgrid(*(np.arange(side) for side in reversed(shape)), indexing="ij"), -1).reshape(-1, 3)
    direction = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    world = index @ direction.T + np.array(image.GetOrigin())
    files = []
    for axis in range(3):
        ramp = world[:, axis].reshape(*reversed(shape)).transpose(2, 1, 0).copy()
        ramp[:3], ramp[-2:], ramp[:, :2], ramp[:, :, :4] = 0, 0, 0, 0
        channel = SimpleITK.GetImageFromArray(ramp.astype(np.float32))
        channel.CopyInformation(image)
        files.append(tmp_path / f"ramp_{axis:04d}.nii.gz")
        SimpleITK.WriteImage(channel, str(files[-1]))
    plans = plans_for(files, (1.25, 1.7, 1.2), scheme="NoNormalization", transpose=(2, 0, 1))
    ours = onto_grid(read_image(files, "SimpleITKIO"), case_plan(plans, "3d_fullres"))
    assert ours.box == ((4, 28), (3, 18), (2, 24))
    for voxel in [(6, 5, 7), (12, 9, 10), (9, 14, 8)]:  # away from the edges, where splines bend
        said = ours.to_world @ np.array([*voxel, 1.0])
        np.testing.assert_allclose(ours.data[(slice(None), *voxel)], said[:3], atol=0.02)


def test_constants_reproduce_the_stored_values(tmp_path):
    folder = make_raw_dataset(tmp_path, 745, 1, kind="mr")
    files = sorted((folder / "imagesTr").iterdir())
    for scheme in ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"):
        plan = case_plan(plans_for(files, (1.5, 1.25, 1.0), scheme=scheme), "3d_fullres")
        result = onto_grid(read_image(files, "SimpleITKIO"), plan, keep_raw=True)
        constants = result.constants[0]
        clipped = np.clip(result.raw[0], constants.lower, constants.upper)
        np.testing.assert_allclose((clipped - constants.offset) / constants.scale, result.data[0], atol=1e-4)


def test_keeping_raw_values_changes_neither_image_nor_result(tmp_path):
    folder = make_raw_dataset(tmp_path, 745, 1)
    files = sorted((folder / "imagesTr").iterdir())
    plan = case_plan(plans_for(files, (1.5, 1.25, 1.0), scheme="CTNormalization"), "3d_fullres")
    image = read_image(files, "SimpleITKIO")
    before = image.data.copy()
    with_raw = onto_grid(image, plan, keep_raw=True)
    np.testing.assert_array_equal(image.data, before)
    np.testing.assert_array_equal(with_raw.raw, before)
    np.testing.assert_array_equal(with_raw.data, onto_grid(image, plan).data)


def test_filling_holes_never_moves_the_box():
    rng = np.random.default_rng(0)
    for sparsity in (0.02, 0.2, 0.6):
        data = (rng.random((2, 9, 10, 11)) < sparsity).astype(np.float32) * rng.standard_normal((2, 9, 10, 11))
        data = np.pad(data, ((0, 0), (1, 2), (2, 0), (0, 3))).astype(np.float32)
        assert nonzero_box(data) == nonzero_box(nonzero_mask(data)[None].astype(np.float32))


def test_a_single_bright_voxel_is_a_box_of_one(tmp_path):
    volume = np.zeros((5, 6, 7), np.int16)
    volume[2, 3, 4] = 9
    write_image(tmp_path / "dot_0000.nii.gz", volume, (1.0, 1.0, 1.0))
    image = read_image([tmp_path / "dot_0000.nii.gz"], "SimpleITKIO")
    assert nonzero_box(image.data) == ((2, 3), (3, 4), (4, 5))
