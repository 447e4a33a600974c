"""What a weights file tells about where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nnssl.export.adaptation import resolved_configuration
from nnssl.export.plain import plain

_PACKAGES = ("nnssl-plugins", "nnunetv2", "torch", "dynamic-network-architectures", "numpy")


def complete_provenance(
    given: Mapping[str, Any],
    *,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """What the run said, with what every fine-tuning must agree with: spacing, normalisation, intensities, versions.

    Args:
        given: the run's own words: recipe, steps, fingerprint and source hashes.
        plans: the pretraining plans file.
        configuration: the trained configuration.
        dataset_json: of the pretraining data set.
        run: seed, final, which, transferred.

    Returns:
        Plain values only; the run's own words never hide the facts from the plan.
    """
    chosen = resolved_configuration(plans, configuration)
    names = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    facts = {
        **run,
        "dataset": plans["dataset_name"],
        "plans_name": plans["plans_name"],
        "configuration": configuration,
        "channel_names": names,
        "spacing_mm": chosen["spacing"],
        "patch_size": chosen["patch_size"],
        "normalization_schemes": chosen["normalization_schemes"],
        "use_mask_for_norm": chosen["use_mask_for_norm"],
        "foreground_intensity_properties_per_channel": plans["foreground_intensity_properties_per_channel"],
        "versions": _versions(),
    }
    about: dict[str, Any] = plain({**given, **facts}, where="provenance")
    return about


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
