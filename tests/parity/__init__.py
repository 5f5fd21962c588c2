"""Agreement with reference numbers that this package did not compute."""

import numpy as np
import torch


def relative_error(value, reference) -> float:
    """Norm of the difference over the norm of the reference.

    A reference of fewer elements is a slice, as tests/reference/README.md
    defines it; it is compared with the same elements of the value.
    """
    value, reference = (
        np.asarray(
            x.detach().cpu() if isinstance(x, torch.Tensor) else x, np.float64
        )
        for x in (value, reference)
    )
    if value.size > reference.size > 1:
        index = np.linspace(0, value.size - 1, reference.size)
        value = value.ravel()[index.round().astype(int)]
    assert value.shape == reference.shape
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)
