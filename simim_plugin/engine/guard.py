"""What happens when a loss is no longer a number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner, get_state_dict
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import SimimError
from ..files import complete_file

# Halved that often, no scale is left above the range of float16.
_MAX_SCALING = 50

# What a process finds in its losses: the iteration, and the terms' names.
_Finding = tuple[int, list[str]]


@HOOKS.register_module()
class NonFiniteGuard(Hook):
    """Skips steps whose gradient is not finite, and keeps the evidence.

    A skipped step leaves no trace in online parameters, optimizer and
    BatchNorm statistics; the target has moved before. The log names
    iteration, process and term; the first time, ``nonfinite/`` in the work
    directory gets the batch of every process whose loss was not finite, and
    the state of the run.

    It costs no wait for the GPU: the norm that clipping has read decides,
    the same in all processes, and the terms that mmengine has read for the
    log tell where it began. Without ``clip_grad`` it measures the gradients
    itself, one wait per optimizer step. Under a gradient scaler, which
    finds its scale by trying, it keeps quiet unless a loss is not finite,
    for 50 steps in a row.

    Args:
        max_in_row (int): skipped steps in a row that end the run. Defaults
            to 3.
        max_saved (int): how often to save batch and state, which have the
            size of a checkpoint. Defaults to 1.
    """

    def __init__(self, max_in_row: int = 3, max_saved: int = 1) -> None:
        self.max_in_row = max_in_row
        self.max_saved = max_saved
        self._in_row = 0
        self._scaling = 0
        self._saved = 0
        self._finite = False
        self._finding: _Finding | None = None
        self._batch: Any = None
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Stand before the optimizer's step."""
        self._statistics = [
            buffer
            for part in runner.model.modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            for buffer in part.buffers()
        ]
        self._kept = [buffer.clone() for buffer in self._statistics]
        wrapper = runner.optim_wrapper

        def check(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if wrapper.clip_grad_kwargs and wrapper.grad_name == 'grad_norm':
                norms = runner.message_hub.get_scalar('train/grad_norm')
                self._finite = math.isfinite(norms.current())
            else:
                self._finite = _finite_gradients(optimizer)
            if not self._finite:
                # Optimizers pass over parameters without gradient.
                optimizer.zero_grad(set_to_none=True)

        self._handle = wrapper.optimizer.register_step_pre_hook(check)

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer as it was."""
        self._handle.remove()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Keep the BatchNorm statistics that a bad batch would spoil."""
        self._finite = False  # a scaler may skip the step, and the check
        if runner.iter % runner.optim_wrapper._accumulative_counts == 0:
            _copy(self._statistics, self._kept)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Report, save, and stop if it does not get better.

        Raises:
            SimimError: after ``max_in_row`` skipped steps in a row, or 50
                under a scaler.
        """
        hub, wrapper = runner.message_hub, runner.optim_wrapper
        terms = [
            name
            for name in outputs or ()
            if not math.isfinite(hub.get_scalar(f'train/{name}').current())
        ]
        if terms and self._finding is None:
            self._finding = runner.iter + 1, terms
            self._batch = data_batch
        if not wrapper.should_update():
            return
        if self._finite:
            self._in_row = self._scaling = 0
        else:
            self._skipped(runner, scaled=hasattr(wrapper, 'loss_scaler'))
        self._finding = self._batch = None

    def _skipped(self, runner: Runner, scaled: bool) -> None:
        # All processes come here together: their gradients are one.
        findings = all_gather_object(self._finding)
        if scaled and not any(findings):
            self._in_row = 0
            self._scaling += 1
            if self._scaling == _MAX_SCALING:
                raise SimimError(
                    f'Training stops after {self._scaling} steps in a row '
                    'without a finite gradient at any scale, the last one: '
                    f'{_words(findings, runner.iter + 1)}; go on from an '
                    'earlier checkpoint in bfloat16 (--amp) or with a lower '
                    'learning rate.'
                )
            return
        _copy(self._kept, self._statistics)
        self._in_row += 1
        words = _words(findings, runner.iter + 1)
        if self._saved < self.max_saved:
            self._saved += 1
            self._save(runner)
        if self._in_row == self.max_in_row:
            raise SimimError(
                f'Training stops after {self._in_row} steps in a row without '
                f'a finite gradient, the last {words}; go on from an earlier '
                'checkpoint with a lower learning rate, or look at what '
                f'{Path(runner.work_dir, "nonfinite")} holds '
                '(docs/monitors.md).'
            )
        runner.logger.warning(f'A step is skipped: {words}.')

    def _save(self, runner: Runner) -> None:
        folder = Path(runner.work_dir, 'nonfinite')
        files: dict[str, Any] = {}
        if self._finding is not None:
            name = f'iter_{self._finding[0]}_rank_{get_rank()}_batch.pth'
            files[name] = self._batch
        if get_rank() == 0:
            files[f'iter_{runner.iter + 1}.pth'] = dict(
                meta=dict(epoch=runner.epoch, iter=runner.iter),
                state_dict=get_state_dict(runner.model),
                optimizer=runner.optim_wrapper.state_dict(),
            )
        for file, content in files.items():
            try:
                with complete_file(folder / file) as part:
                    torch.save(content, part)
            except (OSError, RuntimeError) as error:  # torch's, if it is full
                runner.logger.error(f'Cannot write {folder / file}: {error}.')


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if source:  # no list may be empty: models without BatchNorm
        torch._foreach_copy_(target, source)


def _finite_gradients(optimizer: Optimizer) -> bool:
    """Whether all gradients are finite; waits for the GPU once."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group['params']
        if parameter.grad is not None
    ]
    norms = torch._foreach_norm(gradients)
    return bool(torch.stack(norms).isfinite().all())


def _words(findings: list[_Finding | None], iteration: int) -> str:
    """Where and when it began, of the findings of all processes."""
    places = [
        f'{", ".join(terms)} of rank {rank} at iteration {when}'
        for rank, (when, terms) in (
            (rank, finding)
            for rank, finding in enumerate(findings)
            if finding is not None
        )
    ]
    if not places:
        return (
            f'the gradient at iteration {iteration} is not finite, though '
            'the loss is'
        )
    return f'{"; ".join(places)} not finite'
