"""What is compared with numbers of the released code."""

import numpy as np


def relative_error(value, reference) -> float:
    """Norm of the difference over the norm of the reference."""
    value, reference = (
        np.asarray(x, dtype=np.float64) for x in (value, reference)
    )
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)
