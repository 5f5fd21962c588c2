"""Skip optimizer steps whose gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner, get_state_dict
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_
from torch.optim import Optimizer

from ..errors import SimimError, Trouble
from ..files import complete_file
from .unwrapping import unwrapped

# Halved this often, any scale falls below the range of float16.
_MAX_SCALING = 50

# The iteration where a process saw a loss that is not finite, and the terms.
_Finding = tuple[int, list[str]]


@HOOKS.register_module()
class NonFiniteGuard(Hook):
    """Skip steps whose gradient is not finite, and save the evidence.

    A skipped step changes neither online parameters, optimizer nor BatchNorm
    statistics, nor what the model's ``forget_step`` takes back; the target
    has moved before. The log names iteration, process
    and term. The first time, ``nonfinite/`` in the work directory receives
    the state of the run and, from every process whose loss was not finite,
    the batch.

    The hook adds no wait for the GPU: it reads the norm that clipping has
    measured, which is the same in all processes. Without ``clip_grad``, and
    before gradients are clipped by value, it measures them, with one wait
    per optimizer step. It reads the terms of the loss only after a skipped
    step, and keeps the batches of the optimizer step until then. A gradient
    scaler overflows while it searches for its scale, so under one the hook
    reports a finite loss with a non-finite gradient only after 50 steps in a
    row.

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
        self._batches: list[Any] = []  # of the optimizer step
        self._finding: _Finding | None = None
        self._batch: Any = None
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Check gradients right before the optimizer's step."""
        self._statistics = [
            buffer
            for part in runner.model.modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            for buffer in part.buffers()
        ]
        self._kept = [buffer.clone() for buffer in self._statistics]
        wrapper = runner.optim_wrapper
        self._clip = wrapper.clip_func if wrapper.clip_grad_kwargs else None

        def clip_value(parameters: list[Tensor], **kwargs: Any) -> None:
            # Clipping makes large gradients of infinite ones.
            self._finite = _finite_gradients(parameters)
            clip_grad_value_(parameters, **kwargs)

        def check(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if self._clip is None:
                groups = optimizer.param_groups
                parameters = [p for group in groups for p in group['params']]
                self._finite = _finite_gradients(parameters)
            elif self._clip is not clip_grad_value_:
                norms = runner.message_hub.get_scalar('train/grad_norm')
                self._finite = math.isfinite(norms.current())
            if not self._finite:
                # Optimizers skip parameters without a gradient.
                optimizer.zero_grad(set_to_none=True)

        if self._clip is clip_grad_value_:
            wrapper.clip_func = clip_value
        self._handle = wrapper.optimizer.register_step_pre_hook(check)

    def after_train(self, runner: Runner) -> None:
        """Remove the check from the optimizer and its wrapper."""
        self._handle.remove()
        if self._clip is not None:
            runner.optim_wrapper.clip_func = self._clip

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Keep the BatchNorm statistics that a bad batch would spoil."""
        self._finite = False  # a scaler may skip the step and the check
        if runner.iter % runner.optim_wrapper._accumulative_counts == 0:
            _copy(self._statistics, self._kept)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Report a skipped step, and end the run after too many in a row.

        Raises:
            SimimError: after ``max_in_row`` skipped steps in a row, or 50
                under a scaler.
        """
        wrapper = runner.optim_wrapper
        self._batches.append(data_batch)
        if not wrapper.should_update():
            return
        if self._finite:
            self._in_row = self._scaling = 0
        else:
            self._find(runner, outputs or ())
            self._skipped(runner, scaled=hasattr(wrapper, 'loss_scaler'))
        self._finding = self._batch = None
        self._batches.clear()

    def _find(self, runner: Runner, names: Iterable[str]) -> None:
        """Find the first batch of the optimizer step with a bad term."""
        count = len(self._batches)
        figures = {
            name: runner.message_hub.get_scalar(f'train/{name}').data[0]
            for name in names
        }
        for back in range(count, 0, -1):
            terms = [
                name
                for name, values in figures.items()
                if len(values) >= back and not math.isfinite(values[-back])
            ]
            if terms:
                self._finding = runner.iter + 2 - back, terms
                self._batch = self._batches[-back]
                return

    def _skipped(self, runner: Runner, scaled: bool) -> None:
        # Gradients are the same in all processes, so all get here together.
        forget = getattr(unwrapped(runner.model), 'forget_step', None)
        if forget is not None:
            forget()
        findings = all_gather_object(self._finding)
        words = _words(findings, runner.iter + 1)
        if scaled and not any(findings):
            self._in_row = 0
            self._scaling += 1
            if self._scaling == _MAX_SCALING:
                raise SimimError(
                    f'Training stops after {self._scaling} steps in a row '
                    'without a finite gradient at any scale, the last one: '
                    f'{words}; go on from an earlier checkpoint in bfloat16 '
                    '(--amp) or with a lower learning rate; see '
                    f'{Trouble.NOT_FINITE}.'
                )
            return
        _copy(self._kept, self._statistics)
        self._in_row += 1
        if self._saved < self.max_saved:
            self._saved += 1
            self._save(runner)
        if self._in_row == self.max_in_row:
            raise SimimError(
                f'Training stops after {self._in_row} steps in a row without '
                f'a finite gradient, the last {words}; go on from an earlier '
                'checkpoint with a lower learning rate, or look at what '
                f'{Path(runner.work_dir, "nonfinite")} holds; see '
                f'{Trouble.NOT_FINITE}.'
            )
        runner.logger.warning(f'A step is skipped: {words}.')

    def _save(self, runner: Runner) -> None:
        folder = Path(runner.work_dir, 'nonfinite')
        files: dict[str, Any] = {}
        if self._finding is not None:
            name = f'iter_{self._finding[0]}_rank_{get_rank()}_batch.pth'
            files[name] = self._batch
        state = dict(  # to which every process may hold a part
            meta=dict(epoch=runner.epoch, iter=runner.iter),
            state_dict=get_state_dict(runner.model),
            optimizer=runner.optim_wrapper.state_dict(),
        )
        if get_rank() == 0:
            files[f'iter_{runner.iter + 1}.pth'] = state
        for file, content in files.items():
            try:
                with complete_file(folder / file) as part:
                    torch.save(content, part)
            except (OSError, RuntimeError) as error:  # both: the disk is full
                runner.logger.error(f'Cannot write {folder / file}: {error}.')


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if source:  # _foreach_copy_ refuses the empty list without BatchNorm
        torch._foreach_copy_(target, source)


def _finite_gradients(parameters: list[Tensor]) -> bool:
    """Return whether all gradients are finite, with one wait for the GPU."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    return bool(torch.stack(norms).isfinite().all())


def _words(findings: list[_Finding | None], iteration: int) -> str:
    """Describe the findings of all processes."""
    places = [
        f'{", ".join(finding[1])} of rank {rank} at iteration {finding[0]}'
        for rank, finding in enumerate(findings)
        if finding is not None
    ]
    if not places:
        return (
            f'the gradient at iteration {iteration} is not finite, though '
            'the loss is'
        )
    return f'{"; ".join(places)} not finite'
