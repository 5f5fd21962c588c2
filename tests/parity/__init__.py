"""What is compared with numbers of the released code."""

import numpy as np
import torch


def relative_error(value, reference) -> float:
    """Norm of the difference over the norm of the reference."""
    value, reference = (
        np.asarray(
            x.detach().cpu() if isinstance(x, torch.Tensor) else x, np.float64
        )
        for x in (value, reference)
    )
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)
