"""Measure the spread of the target features and detect its collapse.

Shape key: B images, N patches, M = B x N tokens, D channels, S sampled
tokens, K outputs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import SimimError, Trouble
from .unwrapping import unwrapped

# Tokens in the uniformity, which takes S x S distances.
_SAMPLE = 1024


@torch.no_grad()
def feature_figures(
    target: Tensor, prediction: Tensor | None = None
) -> dict[str, float]:
    """Measure the spread of a batch's target features.

    The features are layer-normalised over D, as in :class:`UniGradHead`.
    With several processes, ``rank`` and ``token_std`` are of all batches
    together and the other figures are means over processes, so all processes
    get the same.

    Args:
        target (Tensor): (B, N, D) features of the target branch.
        prediction (Tensor, optional): (B, N, D) prediction of them by the
            online branch.

    Returns:
        dict[str, float]: ``rank``, ``token_std``, ``cos_image``,
        ``cos_batch``, ``uniform`` and, with a prediction, ``align``;
        docs/monitors.md explains them. NaN if there is no pair.
    """
    images, patches, dim = target.shape
    tokens = F.layer_norm(target.float(), (dim,)).flatten(0, 1)  # (M, D)
    correlation = tokens.T @ tokens / len(tokens)  # (D, D)
    mean = tokens.mean(dim=0)  # (D,)
    for part in (correlation, mean):
        all_reduce(part, op='mean')
    variance = (correlation.diagonal() - mean.square()).clamp(min=0)  # (D,)

    tokens = F.normalize(tokens, dim=1)
    of_image = tokens.view(target.shape).sum(dim=1)  # (B, D)
    own = of_image.square().sum()  # over the pairs of each image, and M
    every = of_image.sum(dim=0).square().sum()  # over all pairs, and M
    inside = len(tokens) * (patches - 1) or torch.nan  # no pair, no cosine
    between = len(tokens) * patches * (images - 1) or torch.nan
    figures = dict(
        cos_image=(own - len(tokens)) / inside,
        cos_batch=(every - own) / between,
        uniform=_uniformity(tokens),
    )
    if prediction is not None:
        predicted = F.normalize(prediction.float().flatten(0, 1), dim=1)
        figures['align'] = (predicted - tokens).square().sum(dim=1).mean()
    own_figures = torch.stack([*figures.values()])
    all_reduce(own_figures, op='mean')
    values = torch.stack([effective_rank(correlation), variance.sqrt().mean()])
    names = ('rank', 'token_std', *figures)
    values = torch.cat([values, own_figures])
    return dict(zip(names, values.tolist(), strict=True))


@torch.no_grad()
def output_figures(outputs: Tensor) -> dict[str, float]:
    """Measure the spread of one vector for each image.

    The vectors are layer-normalised over K. With several processes,
    ``output_std`` is of all batches together and ``output_cos`` the mean over
    processes. No K x K matrix is made: K is 65,536 in DINO.

    Args:
        outputs (Tensor): (B, K).

    Returns:
        dict[str, float]: ``output_std``, the standard deviation over the
        images, mean of the outputs, and ``output_cos``, the mean cosine
        between two images; NaN for one image.
    """
    images, width = outputs.shape
    rows = F.layer_norm(outputs.float(), (width,))  # (B, K)
    moments = torch.stack([rows.mean(dim=0), rows.square().mean(dim=0)])
    all_reduce(moments, op='mean')
    variance = (moments[1] - moments[0].square()).clamp(min=0)  # (K,)
    rows = F.normalize(rows, dim=1)
    pairs = images * (images - 1) or torch.nan
    cosine = (rows.sum(dim=0).square().sum() - images) / pairs
    all_reduce(cosine, op='mean')
    figures = torch.stack([variance.sqrt().mean(), cosine]).tolist()
    return dict(zip(('output_std', 'output_cos'), figures, strict=True))


def effective_rank(correlation: Tensor) -> Tensor:
    """Return RankMe, the effective number of directions of the tokens.

    It is the exponential of the entropy of the tokens' singular values, the
    roots of the correlation's eigenvalues: 1 to D, or NaN if the correlation
    is not finite.

    Args:
        correlation (Tensor): (D, D), symmetric.
    """
    if not correlation.isfinite().all():  # LAPACK would raise
        return correlation.new_tensor(torch.nan)
    singular = torch.linalg.eigvalsh(correlation).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def _uniformity(tokens: Tensor) -> Tensor:
    """Return log mean exp(-2 distance^2) over pairs of (M, D) tokens."""
    # A separate generator leaves the run's random state unchanged.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(tokens), generator=generator)[:_SAMPLE]
    sample = tokens[chosen.to(tokens.device)]  # (S, D)
    similarity = sample @ sample.T  # (S, S)
    pairs = len(sample) * (len(sample) - 1)
    # |u - v|^2 = 2 - 2 u.v, and 0 for the pair of a token with itself.
    kernel = (4 * (similarity - 1)).exp().fill_diagonal_(0)
    return (kernel.sum() / pairs).log()


def measured_every(interval: int, steps: int) -> int:
    """Return a part of an interval that a run has ten of, or the interval.

    Args:
        interval (int): iterations.
        steps (int): length of the run, iterations.
    """
    most = max(1, min(interval, steps // 10))
    return next(n for n in range(most, 0, -1) if interval % n == 0)


@HOOKS.register_module()
class CollapseMonitor(Hook):
    """Log the spread of the target features and warn when they collapse.

    At the first iteration and every ``interval`` iterations forward hooks
    read the outputs of the target projector and the neck, and
    :func:`feature_figures` of them are logged; a run shorter than ten
    intervals is measured more often. Every ``interval`` iterations the
    monitor compares the figures with their limits, and warns if one is beyond
    in ``patience`` comparisons in a row.

    If the model has a method ``compared``, as :class:`simim_plugin.rivals.
    StudentTeacher` does, the monitor measures the patches of the teacher's
    backbone, and by :func:`output_figures` the result of ``compared`` on the
    outputs of its head. Both have limits of their own; ``cos_image`` has none,
    since such methods compare whole images. Other models are ignored.

    Args:
        interval (int): iterations between comparisons. Defaults to 50.
        patience (int): comparisons in a row that make a verdict; a healthy
            run may pass a limit briefly. Defaults to 3.
        min_rank (float): limit of ``rank``, as a share of the channels.
            Defaults to 0.03. docs/results.md derives the limits.
        min_token_std (float): limit of ``token_std``. Defaults to 0.5.
        max_cos_image (float): limit of ``cos_image``. Defaults to 0.98.
        max_cos_batch (float): limit of ``cos_batch``. Defaults to 0.8.
        min_teacher_std (float): limit of ``token_std`` and ``output_std`` of
            a teacher. Defaults to 0.2.
        max_teacher_cos (float): limit of ``cos_batch`` and ``output_cos`` of
            a teacher. Defaults to 0.95.
        stop (bool): end the run at a verdict. Defaults to False.
    """

    def __init__(
        self,
        interval: int = 50,
        patience: int = 3,
        min_rank: float = 0.03,
        min_token_std: float = 0.5,
        max_cos_image: float = 0.98,
        max_cos_batch: float = 0.8,
        min_teacher_std: float = 0.2,
        max_teacher_cos: float = 0.95,
        stop: bool = False,
    ) -> None:
        self.interval = interval
        self.patience = patience
        self.min_rank = min_rank
        self.min_token_std = min_token_std
        self.max_cos_image = max_cos_image
        self.max_cos_batch = max_cos_batch
        self.min_teacher_std = min_teacher_std
        self.max_teacher_cos = max_teacher_cos
        self.stop = stop
        self._parts: dict[str, nn.Module] = {}
        self._extra = 1  # tokens before the patches
        self._compared: Callable[[Any], Tensor] | None = None
        self._handles: list[RemovableHandle] = []
        self._seen: dict[str, Tensor] = {}
        self._beyond: Counter[str] = Counter()

    def before_train(self, runner: Runner) -> None:
        """Find the parts of the target branch."""
        self._often = measured_every(self.interval, runner.max_iters)
        model = unwrapped(runner.model)
        target = getattr(model, 'target', None)
        if isinstance(target, nn.ModuleDict) and 'projector' in target:
            self._parts['target'] = target['projector']
            self._parts['prediction'] = model.neck
            self._extra = model.backbone.num_extra_tokens
        elif hasattr(model, 'compared'):
            self._parts['target'] = model.target['backbone']
            self._parts['outputs'] = model.target['neck']
            self._compared = model.compared
            self._extra = model.backbone.num_extra_tokens
        else:
            runner.logger.info(
                f'CollapseMonitor has nothing to watch: '
                f'{type(model).__name__} has no target branch that it knows.'
            )

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Hook into the model if this iteration is measured."""
        due = self.every_n_train_iters(runner, self._often)
        if not due and runner.iter > 0:
            return
        for name, part in self._parts.items():
            keep = partial(self._keep, name)
            self._handles.append(part.register_forward_hook(keep))

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Log the figures and compare them with their limits.

        Raises:
            SimimError: at a verdict, with ``stop``.
        """
        while self._handles:
            self._handles.pop().remove()
        if not self._seen:
            return
        target = self._seen.pop('target')[:, self._extra :]
        prediction = self._seen.pop('prediction', None)
        if prediction is not None and prediction.shape != target.shape:
            prediction = None  # variants predict a part, some past the neck
        figures = feature_figures(target, prediction)
        if 'outputs' in self._seen:
            figures |= output_figures(self._seen.pop('outputs'))
        for name, value in figures.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        if self.every_n_train_iters(runner, self.interval):
            self._judge(runner, figures, target.shape[-1])

    def _keep(
        self, name: str, part: nn.Module, inputs: Any, output: Any
    ) -> None:
        if name == 'outputs' and self._compared is not None:
            output = self._compared(output)
        elif isinstance(output, tuple):  # of a backbone
            (output,) = output
        self._seen[name] = output.detach()

    def _limits(self, dim: int) -> dict[str, tuple[float, str]]:
        """Return the limit of each figure, and the words for what is beyond.

        Args:
            dim (int): D.
        """
        constant, alike = 'are all but constant', 'are alike over all images'
        rank = self.min_rank * dim, f'fill few of {dim} directions'
        if self._compared is None:
            return {
                'rank': rank,
                'token_std': (self.min_token_std, constant),
                'cos_image': (
                    self.max_cos_image,
                    'are alike over all patches of an image',
                ),
                'cos_batch': (self.max_cos_batch, alike),
            }
        return {
            'rank': rank,
            'token_std': (self.min_teacher_std, constant),
            'cos_batch': (self.max_teacher_cos, alike),
            'output_std': (self.min_teacher_std, constant),
            'output_cos': (self.max_teacher_cos, alike),
        }

    def _judge(
        self, runner: Runner, figures: dict[str, float], dim: int
    ) -> None:
        reasons = defaultdict[str, list[str]](list)
        for name, (limit, words) in self._limits(dim).items():
            value = figures[name]
            least = name in ('rank', 'token_std', 'output_std')
            beyond = value < limit if least else value > limit
            self._beyond[name] = self._beyond[name] + 1 if beyond else 0
            if self._beyond[name] == self.patience:
                whose = 'outputs' if name.startswith('output') else 'features'
                reasons[whose].append(
                    f'{words} ({name} {value:.3g}, limit {limit:.3g})'
                )
        if reasons:
            what = ' and '.join(
                f'the target {whose} {", ".join(words)}'
                for whose, words in reasons.items()
            )
            verdict = (
                f'Collapse at iteration {runner.iter + 1}: {what}; see '
                f'{Trouble.COLLAPSE}.'
            )
            if self.stop:
                raise SimimError(verdict)
            runner.logger.warning(verdict)
