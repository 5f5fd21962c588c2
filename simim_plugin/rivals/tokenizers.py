"""Tokenizers of BEiT: they number the patches of an image.

Shape key: B batch, N patches, P patch size in pixels, K tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS
from torch import Tensor, nn

from ..checkpoint import CheckpointError, read_checkpoint
from ..datasets.image_set import inner_datasets
from ..engine.random_state import same_random_state
from ..engine.seeding import Draw, SeededDataset
from ..engine.unwrapping import part_for
from ..errors import SimimError

_AT_ONCE = 8192
"""Patches whose distances to all centres are in memory at once."""


@MODELS.register_module()
class PatchTokenizer(nn.Module):
    """Number a patch by the nearest of K mean patches of a k-means; ours.

    It needs no file. :class:`FitTokenizerHook` fits it before the first step.

    Args:
        num_tokens (int): K, at least 2.
        patch_size (int): P.
        in_channels (int): defaults to that of the backbone in a config, else
            to 3.

    Raises:
        SimimError: for fewer than two tokens.
    """

    centres: Tensor

    def __init__(
        self, num_tokens: int, patch_size: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        if num_tokens < 2:
            raise SimimError(
                f'num_tokens of PatchTokenizer is {num_tokens}; set it to at '
                'least 2.'
            )
        self.num_tokens = num_tokens
        self.patch_size = patch_size
        self.in_channels = in_channels
        width = in_channels * patch_size**2
        self.register_buffer('centres', torch.zeros(num_tokens, width))
        self._fitted = False

    @property
    def fitted(self) -> bool:
        """Whether the centres are there."""
        if not self._fitted:  # centres stay, and reading them waits
            self._fitted = bool(self.centres.any())
        return self._fitted

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return numbers (B, N) of the patches of pixels (B, 3, H, W).

        Args:
            pixels (Tensor): 0 to 1.

        Raises:
            SimimError: if the tokenizer is not fitted.
        """
        if not self.fitted:
            raise SimimError(
                'PatchTokenizer has no centres; add FitTokenizerHook to '
                'custom_hooks, which fits them on the training images.'
            )
        patches = self._patches(pixels)
        return self._nearest(patches).view(len(pixels), -1)

    @torch.no_grad()
    def fit(self, pixels: Tensor, rounds: int) -> None:
        """Fit the centres by Lloyd's algorithm, from patches drawn at random.

        torch does it on the device of the model. scikit-learn is no
        dependency.

        Args:
            pixels (Tensor): (B, 3, H, W), 0 to 1.
            rounds (int): assignments of all patches.

        Raises:
            SimimError: if there are fewer different patches than tokens.
        """
        patches = self._patches(pixels.to(self.centres.device))
        start = patches[torch.randperm(len(patches), device=patches.device)]
        # Equal patches, as in blank corners, would be one centre twice.
        drawn = 4 * self.num_tokens
        found = torch.unique(start[:drawn], dim=0)
        while len(found) < self.num_tokens and drawn < len(start):
            drawn *= 4
            found = torch.unique(start[:drawn], dim=0)
        start = found
        if len(start) < self.num_tokens:
            raise SimimError(
                f'PatchTokenizer found {len(start)} different patches for '
                f'{self.num_tokens} tokens; lower num_tokens, or raise images '
                'of FitTokenizerHook.'
            )
        chosen = torch.randperm(len(start), device=start.device)
        self.centres.copy_(start[chosen[: self.num_tokens]])
        for _ in range(rounds):
            nearest = self._nearest(patches)
            total = torch.zeros_like(self.centres)
            total.index_add_(0, nearest, patches)
            count = nearest.bincount(minlength=self.num_tokens)[:, None]
            mean = total / count.clamp(min=1)
            self.centres.copy_(mean.where(count > 0, self.centres))

    def _patches(self, pixels: Tensor) -> Tensor:
        """Return all patches (B x N, 3 P^2)."""
        size = self.patch_size
        return F.unfold(pixels.float(), size, stride=size).mT.flatten(0, 1)

    def _nearest(self, patches: Tensor) -> Tensor:
        half = self.centres.square().sum(dim=1) / 2
        return torch.cat(
            [
                (half - part @ self.centres.T).argmin(dim=1)
                for part in patches.split(_AT_ONCE)
            ]
        )


@MODELS.register_module()
class DALLETokenizer(nn.Module):
    """Number patches by the discrete VAE of DALL-E, as BEiT does.

    The view is resized to 8 pixels for each patch, with a low-pass filter.
    BEiT resizes the same crop of the image instead.

    Args:
        file (str): weights of the encoder in the layout of MMPretrain's
            ``dalle_encoder.pth``. A pickled module is refused.
        patch_size (int): P.
        **kwargs: see MMPretrain's ``DALLEEncoder``; K is ``vocab_size``.

    Raises:
        CheckpointError: if the file is not the encoder's.
    """

    def __init__(self, file: str, patch_size: int, **kwargs: Any) -> None:
        super().__init__()
        self.file = file
        self.patch_size = patch_size
        self.in_channels = 3
        self.encoder = MODELS.build(dict(type='DALL-E', **kwargs))
        self.encoder.requires_grad_(False)
        self.num_tokens = len(self.encoder.blocks.output.conv.b)

    def init_weights(self) -> None:
        """Read the file."""
        state = read_checkpoint(self.file)
        state = state.get('state_dict', state)
        try:
            self.encoder.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError):
            raise CheckpointError(
                f'{self.file} does not hold the encoder of DALL-E with '
                f'{self.num_tokens} tokens; give the file that MMPretrain '
                'names for BEiT, dalle_encoder.pth.'
            ) from None

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return numbers (B, N) of the patches of pixels (B, 3, H, W).

        Args:
            pixels (Tensor): 0 to 1.
        """
        size = [8 * side // self.patch_size for side in pixels.shape[-2:]]
        small = F.interpolate(
            pixels.float(), size, mode='bicubic', antialias=True
        )
        # DALL-E keeps levels off the ends, where its likelihood has none.
        logits = self.encoder(0.8 * small.clamp(0, 1) + 0.1)
        return logits.argmax(dim=1).flatten(1)


@HOOKS.register_module()
class FitTokenizerHook(Hook):
    """Fit a :class:`PatchTokenizer` on training views before the first step.

    The main process fits it. A resumed run has it in its checkpoint. Other
    tokenizers need no fit, and stay as they are.

    Args:
        images (int): evenly spread training images, at least 1. Defaults to
            1024.
        rounds (int): of the k-means, at least 1. Defaults to 10.

    Raises:
        SimimError: for fewer images or rounds, or a model without tokenizer.
    """

    def __init__(self, images: int = 1024, rounds: int = 10) -> None:
        if min(images, rounds) < 1:
            raise SimimError(
                f'FitTokenizerHook has images={images} and rounds={rounds}; '
                'set both to at least 1.'
            )
        self.images = images
        self.rounds = rounds

    def before_train(self, runner: Runner) -> None:
        """Fit the tokenizer if it has no centres."""
        tokenizer = part_for(self, runner.model, 'target_generator')
        if not isinstance(tokenizer, PatchTokenizer) or tokenizer.fitted:
            return
        if is_main_process():
            data = runner.train_dataloader.dataset
            count = min(self.images, len(data))
            runner.logger.info(
                f'Fitting {tokenizer.num_tokens} tokens on {count} images.'
            )
            chosen = np.linspace(0, len(data) - 1, count).astype(int).tolist()
            inner = inner_datasets(data)
            if any(isinstance(one, SeededDataset) for one in inner):
                chosen = [Draw(runner.seed, 0, k) for k in chosen]
            with same_random_state(runner.seed):
                views = [data[k]['inputs'][0] for k in chosen]
                tokenizer.fit(torch.stack(views) / 255, self.rounds)
        broadcast(tokenizer.centres)
