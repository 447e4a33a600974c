"""Small deterministic data sets and plans for tests: nnU-Net raw folders of about 40^3 voxels, nets of 4 stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from nnssl.paths import VARIABLES, Folders
from nnssl.planning.cases import read_raw_dataset
from nnssl.planning.folder import preprocess_folder
from nnssl.planning.grid import case_plan
from nnssl.planning.planner import plans_path, save_plans
from nnssl.planning.requirements import Required
from nnssl.planning.run import write_fingerprint

Kind = Literal["ct", "mr", "two"]
CHANNELS: dict[Kind, dict[str, str]] = {"ct": {"0": "CT"}, "mr": {"0": "T1"}, "two": {"0": "T1", "1": "T2"}}
LABELS = {"background": 0, "organ": 1, "lesion": 2}


def make_raw_dataset(
    root: Path,
    dataset_id: int,
    n: int,
    *,
    kind: Kind = "ct",
    shape: tuple[int, int, int] = (40, 44, 48),
    spacing_mm: tuple[float, float, float] = (1.5, 1.25, 1.0),
    labels: bool = False,
    seed: int = 0,
) -> Path:
    """Write `n` cases into nnUNet_raw = `root` and return the data set's folder.

    Args:
        root: nnU-Net's raw folder.
        dataset_id: the number in the name.
        n: cases, called case_00, case_01, ...
        kind: one CT, one MR, or two MR channels.
        shape: voxels D H W; every case differs from it by up to 2 voxels.
        spacing_mm: voxel size D H W.
        labels: also write labelsTr with two classes.
        seed: of everything drawn.
    """
    folder = root / f"Dataset{dataset_id:03d}_Tiny"
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    if labels:
        (folder / "labelsTr").mkdir(exist_ok=True)
    for index in range(n):
        rng = np.random.default_rng([seed, dataset_id, index])
        size = tuple(int(side + rng.integers(-2, 3)) for side in shape)
        image, segmentation = phantom(rng, size, kind)
        for channel, volume in enumerate(image):
            write_image(folder / "imagesTr" / f"case_{index:02d}_{channel:04d}.nii.gz", volume, spacing_mm)
        if labels:
            write_image(folder / "labelsTr" / f"case_{index:02d}.nii.gz", segmentation, spacing_mm)
    dataset_json = {
        "channel_names": CHANNELS[kind],
        "labels": LABELS if labels else {"background": 0},
        "numTraining": n,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=2))
    return folder


def phantom(
    rng: np.random.Generator, shape: tuple[int, ...], kind: Kind
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """A body of smooth texture with an organ and a lesion: image (C, D, H, W), labels (D, H, W)."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    body = (grid**2 / np.array([1.3, 0.7, 0.8])[:, None, None, None]).sum(0) < 1
    organ = ((grid - rng.uniform(-0.3, 0.3, (3, 1, 1, 1))) ** 2).sum(0) < 0.2
    lesion = ((grid - rng.uniform(-0.4, 0.4, (3, 1, 1, 1))) ** 2).sum(0) < 0.06
    labels = np.where(lesion, 2, np.where(organ, 1, 0)) * body
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2) * 400
    values = {"ct": ((-1000.0, 40.0, 180.0, 400.0),), "mr": ((0.0, 300.0, 700.0, 500.0),)}.get(
        kind, ((0.0, 300.0, 700.0, 500.0), (0.0, 800.0, 350.0, 900.0))
    )
    channels = []
    for air, tissue, organ_value, lesion_value in values:
        level = np.choose(labels, [tissue, organ_value, lesion_value]) + texture
        channels.append(np.where(body, level + rng.normal(0, 10, shape), air))
    image = np.stack(channels)
    if kind != "ct":
        image = np.where(body, np.maximum(image, 1), 0)
    return image.round().astype(np.int16), labels.astype(np.uint8)


def write_image(path: Path, volume: npt.NDArray[Any], spacing_mm: tuple[float, ...]) -> None:
    """Write (D, H, W) with voxel size D H W and a fixed, not trivial origin."""
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing(tuple(float(side) for side in reversed(spacing_mm)))
    image.SetOrigin((-20.0, 15.0, 100.0))
    SimpleITK.WriteImage(image, str(path))


def tiny_plans(
    dataset_name: str,
    *,
    plans_name: str = "nnsslPlans",
    kind: Kind = "ct",
    residual: bool = False,
    spacing_mm: tuple[float, float, float] = (1.5, 1.25, 1.0),
    patch_size: tuple[int, int, int] = (32, 32, 32),
) -> dict[str, Any]:
    """An nnU-Net plans file with one 3d_fullres U-Net of 4 stages, 8 to 64 features, in plain JSON values."""
    channels = len(CHANNELS[kind])
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"{plans_name}_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": [40.0, 44.0, 48.0],
        "spacing": list(spacing_mm),
        "normalization_schemes": ["CTNormalization" if kind == "ct" else "ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": tiny_architecture(residual=residual),
        "batch_dice": False,
    }
    intensity = {
        "max": 1500.0,
        "mean": 60.0,
        "median": 45.0,
        "min": -1000.0,
        "percentile_00_5": -950.0,
        "percentile_99_5": 700.0,
        "std": 250.0,
    }
    return {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": list(spacing_mm),
        "original_median_shape_after_transp": [40, 44, 48],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): dict(intensity) for c in range(channels)},
    }


def tiny_architecture(*, residual: bool = False) -> dict[str, Any]:
    """The `architecture` block of a 4-stage PlainConvUNet or ResidualEncoderUNet with 8, 16, 32, 64 features."""
    from nnssl.testing_world import small_architecture  # imports torch, which tests of ingest do without

    return small_architecture(residual=residual, features=(8, 16, 32, 64))


def make_thin(plans_file: Path) -> None:
    """An eighth of the planner's widths, as a user may edit them: whole ones take a minute."""
    plans = json.loads(plans_file.read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [width // 8 for width in network["features_per_stage"]]
    plans_file.write_text(json.dumps(plans))


def workspace_folders(root: Path) -> Folders:
    """nnU-Net's three folders under `root`, made where absent; sets no variables."""
    where = Folders(*(root / variable for variable in VARIABLES))
    for folder in (where.raw, where.preprocessed, where.results):
        folder.mkdir(parents=True, exist_ok=True)
    return where


def write_workspace(root: Path) -> Folders:
    """Dataset745_Tiny (6 unlabelled cases, ours) and Dataset004_Tiny (4 cases, 2 classes, stock nnU-Net's).

    Both are raw and preprocessed with the plans `nnsslPlans`. Sets no variables: pass `--workspace root`.
    """
    where = workspace_folders(root)
    for dataset_id, labels in ((745, False), (4, True)):
        raw = make_raw_dataset(where.raw, dataset_id, 6 if dataset_id == 745 else 4, labels=labels)
        dataset = read_raw_dataset(raw.name, where)
        write_fingerprint(dataset, "SimpleITKIO", where, workers=1, anew=True, say=lambda sentence: None)
        plans = tiny_plans(raw.name)
        save_plans(plans_path(where.preprocessed, raw.name, "nnsslPlans"), plans, replace=False)
        folder = where.preprocessed / raw.name / "nnsslPlans_3d_fullres"
        if labels:
            preprocess_by_nnunet(raw, folder, plans)
        else:
            preprocess_folder(dataset, case_plan(plans, "3d_fullres"), folder, Required(), workers=1)
    return where


def preprocess_by_nnunet(raw: Path, folder: Path, plans: dict[str, Any]) -> None:
    """What `nnUNetv2_preprocess` writes for the labelled data set `raw`, without its process pool."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder.mkdir(parents=True)
    manager = PlansManager(plans)
    truth = folder.parent / "gt_segmentations"
    truth.mkdir()
    for label in sorted((raw / "labelsTr").iterdir()):
        case = label.name.removesuffix(".nii.gz")
        images = [str(file) for file in sorted((raw / "imagesTr").glob(f"{case}_????.nii.gz"))]
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder / case),
            images,
            str(label),
            manager,
            manager.get_configuration("3d_fullres"),
            json.loads((raw / "dataset.json").read_text()),
        )
        shutil.copy(label, truth)
