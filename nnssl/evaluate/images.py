"""Image files of a folder by case and channel, as nnU-Net names them. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from nnssl.errors import UsageError

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def is_image(file: Path) -> bool:
    """Whether its name is that of an image; hidden files are none."""
    return not file.name.startswith(".") and file.name.endswith(ENDINGS)


def images_of_folder(folder: Path) -> dict[str, list[Path]]:
    """{case: files, channels in order}; files without a channel number are cases of one channel.

    Raises:
        UsageError: there is none.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(filter(is_image, folder.iterdir())):
        match = _CHANNEL.fullmatch(stem(file))
        found.setdefault(match.group(1) if match else stem(file), []).append(file)
    if not found:
        raise UsageError(f"{folder} holds no images ({', '.join(ENDINGS)}).")
    return found


def stem(file: Path) -> str:
    """The name without its ending, of which ".nii.gz" is one."""
    ending = next((ending for ending in ENDINGS if file.name.endswith(ending)), file.suffix)
    return file.name.removesuffix(ending)
