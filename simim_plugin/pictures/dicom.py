"""Read DICOM files through pydicom, by the window that they state."""

from __future__ import annotations

import io

import numpy as np

from ..environment import require
from .levels import Window, to_eight_bits


def is_dicom(data: bytes) -> bool:
    """Return whether a file begins as DICOM files do."""
    return data[128:132] == b'DICM'


def dicom_levels(data: bytes) -> tuple[np.ndarray, Window | None, bool]:
    """Return the levels of a DICOM file after its rescaling.

    Returns:
        tuple: levels (H, W), or (H, W, 3) uint8 RGB; the file's window, if
        it has one; and whether the lowest level is white.

    Raises:
        MissingDependency: if pydicom is missing.
        Exception: any error of pydicom, or a ValueError for a file of
            several frames or of a palette.
    """
    require('reading of DICOM')
    import pydicom
    from pydicom.pixels import apply_modality_lut, pixel_array

    dataset = pydicom.dcmread(io.BytesIO(data))
    frames = int(dataset.get('NumberOfFrames') or 1)
    kind = dataset.get('PhotometricInterpretation', '')
    if frames > 1 or kind == 'PALETTE COLOR':
        what = f'{frames} frames' if frames > 1 else 'a palette'
        raise ValueError(f'a DICOM file of {what}, save each as a picture')
    levels = pixel_array(dataset)  # colours as RGB
    if levels.ndim == 3:
        return levels, None, False
    levels = apply_modality_lut(levels, dataset)
    window = _stated_window(dataset)
    if window is None and levels.dtype.kind == 'u':  # not rescaled
        window = 0, 2 ** int(dataset.BitsStored) - 1
    return levels, window, kind == 'MONOCHROME1'


def decode_dicom(data: bytes, window: Window | None, name: str) -> np.ndarray:
    """Decode a DICOM file to uint8 by ``window``, else by its own one."""
    levels, stated, inverted = dicom_levels(data)
    if levels.dtype == np.uint8 and stated:  # they have a window, too
        levels = levels.astype(np.uint16)
    pixels = to_eight_bits(levels, window or stated, name)
    return 255 - pixels if inverted else pixels


def _stated_window(dataset: object) -> Window | None:
    """Return the first window of a file, as levels for black and white."""
    centre, width = (
        getattr(dataset, key, None) for key in ('WindowCenter', 'WindowWidth')
    )
    if centre is None or width is None:
        return None
    # Either is one number, or several.
    centre, width = (float(np.ravel(value)[0]) for value in (centre, width))
    # DICOM PS3.3, C.11.2.1.2: the linear function has a half-level offset.
    if getattr(dataset, 'VOILUTFunction', 'LINEAR') == 'LINEAR':
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return centre - width / 2, centre + width / 2
