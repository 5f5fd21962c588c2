"""Focal losses (Lin et al. 2017).

Shape key: N samples, K classes. A target of K is the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import wide


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute one binary loss per sample and class.

    Args:
        input (Tensor): (N, K) logits.
        target (Tensor): (N,), from 0 to K.
        weight (Tensor): (K,), factors by the class of the target, or empty
            for none. With weights no target may be the background.
        output (Tensor): (N, K), written.
        gamma (float): exponent that focuses on hard samples.
        alpha (float): share of the positives.
    """
    logits, positive = wide(input), _one_hot(target, input)
    chance = logits.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - chance) ** gamma * F.logsigmoid(logits),
        -(1 - alpha) * chance**gamma * F.logsigmoid(-logits),
    )
    output.copy_(_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of every loss by its logit, (N, K)."""
    logits, positive = wide(input), _one_hot(target, input)
    chance = logits.sigmoid()
    rest = 1 - chance
    grad = torch.where(
        positive,
        -alpha * rest**gamma * (rest - gamma * chance * F.logsigmoid(logits)),
        -(1 - alpha)
        * chance**gamma
        * (gamma * rest * F.logsigmoid(-logits) - chance),
    )
    grad_input.copy_(_weighted(grad, target, weight))


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute one loss per sample.

    Args:
        input (Tensor): (N, K) probabilities, a softmax.
        target (Tensor): (N,), from 0 to K - 1; negative ones are ignored.
        weight (Tensor): (K,), factors by class, or empty for none.
        output (Tensor): (N,), written.
        gamma (float): exponent that focuses on hard samples.
        alpha (float): factor of the whole.
    """
    chance = _of_target(input, target)
    loss = -alpha * (1 - chance) ** gamma * chance.log()
    output.copy_(_counted(loss, target, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of every loss by the logits, (N, K).

    ``buff``, (N,), receives the derivative by the log of the probability of
    the target.
    """
    chance = _of_target(input, target)
    rest = 1 - chance
    slope = gamma * rest ** (gamma - 1) * chance * chance.log()
    factor = _counted(alpha * (slope - rest**gamma), target, weight)
    buff.copy_(factor)
    hot = F.one_hot(target.clamp(min=0), input.shape[1])
    grad_input.copy_(factor[:, None] * (hot - wide(input)))


def _one_hot(target: Tensor, input: Tensor) -> Tensor:
    """Return a mask of the targets' classes, (N, K)."""
    return target[:, None] == torch.arange(
        input.shape[1], device=target.device
    )


def _weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return values * wide(weight)[target][:, None] if len(weight) else values


def _of_target(input: Tensor, target: Tensor) -> Tensor:
    """Return the probability of every target, (N,), at least float's tiny."""
    chance = wide(input).gather(1, target.clamp(min=0)[:, None])[:, 0]
    return chance.clamp(min=torch.finfo(torch.float32).tiny)


def _counted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weight values by their classes; ignored targets give 0."""
    if len(weight):
        values = values * wide(weight)[target.clamp(min=0)]
    return torch.where(target >= 0, values, 0)
