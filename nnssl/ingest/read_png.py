"""A stack of PNG slices as a volume: axial, face up, from head to feet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnssl.ingest.scan import Part
from nnssl.planning.reading import Affine, itk_name, last_line
from nnssl.planning.refusal import Refused


def read_stack(part: Part) -> tuple[npt.NDArray[np.float32], Affine]:
    """(D, H, W) voxels and the affine from (d, h, w, 1) to mm in LPS.

    Rows go to the back and columns to the left, as in every axial slice that radiologists look at; slices go to the
    feet, as scanners number them.

    Raises:
        Refused: a slice cannot be read, is coloured or of another size.
    """
    import SimpleITK

    slices = []
    for file in part.files:
        try:
            image = SimpleITK.ReadImage(itk_name(file))
        except RuntimeError as error:
            raise Refused("unreadable", f"The slice {file.name} cannot be read ({last_line(error)}).") from error
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise Refused("colour", f"The slice {file.name} is coloured; grey values are needed.")
        slices.append(SimpleITK.GetArrayFromImage(image).reshape(image.GetSize()[1], image.GetSize()[0]))
        if slices[-1].shape != slices[0].shape:
            raise Refused(
                "sizes_differ", f"The slices {part.files[0].name} and {file.name} differ in size; a volume needs one."
            )
    voxels = np.stack(slices).astype(np.float32) + np.float32(part.offset)
    x, y, z = part.spacing_mm or (1.0, 1.0, 1.0)
    to_world = np.zeros((4, 4))
    to_world[0, 2], to_world[1, 1], to_world[2, 0], to_world[3, 3] = x, y, -z, 1
    return voxels, to_world
