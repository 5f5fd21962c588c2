"""BEiT (arXiv 2106.08254): predict the tokens of masked patches.

Shape key: B batch, N patches, M masked patches, E extra tokens, C channels,
K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..datasets.collating import visible_patches
from ..errors import SimimError
from ..tensors import wide
from .mask_token import check_backbone


@MODELS.register_module()
class TokenHead(BaseModule):
    """A linear map to the tokens, and their cross entropy.

    Args:
        in_dims (int): C.
        num_tokens (int): K.
    """

    def __init__(self, in_dims: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.tokens = nn.Linear(in_dims, num_tokens)

    def loss(self, features: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            features (Tensor): (B, M, C) of the masked patches.
            tokens (Tensor): (B, M), 0 to K - 1.

        Returns:
            dict[str, Tensor]: ``loss``, and ``token_accuracy``, the share of
            tokens that are predicted.
        """
        logits = self.tokens(features).flatten(0, 1)
        with torch.autocast(features.device.type, enabled=False):
            logits, answers = wide(logits), tokens.flatten()
            hits = logits.argmax(dim=1) == answers
            return dict(
                loss=F.cross_entropy(logits, answers),
                token_accuracy=hits.float().mean(),
            )


@MODELS.register_module()
class ViTBEiT(BaseSelfSupervisor):
    """Predict the tokens of the patches that a learned token replaces.

    Args:
        backbone (dict): a :class:`MaskTokenViT`.
        head (dict): a :class:`TokenHead`.
        target_generator (dict): the tokenizer, a :class:`PatchTokenizer`,
            which takes ``in_channels`` of the backbone, or a
            :class:`DALLETokenizer`. It sees the pixels of the view.
        **kwargs: see :class:`mmpretrain.models.BaseSelfSupervisor`.

    Raises:
        SimimError: for another backbone, if tokenizer and head have
            different numbers of tokens, or tokenizer and backbone different
            patches or channels.
    """

    def __init__(
        self, backbone: dict, target_generator: dict, **kwargs: Any
    ) -> None:
        if target_generator['type'] == 'PatchTokenizer':
            channels = backbone.get('in_channels', 3)
            target_generator = dict(
                dict(in_channels=channels), **target_generator
            )
        super().__init__(
            backbone=backbone, target_generator=target_generator, **kwargs
        )
        check_backbone('ViTBEiT', self.backbone)
        self._check()
        token = torch.empty(1, 1, self.backbone.embed_dims)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(token, std=0.02))

    def _check(self) -> None:
        tokenizer, embed = self.target_generator, self.backbone.patch_embed
        if tokenizer.num_tokens != self.head.num_tokens:
            raise SimimError(
                f'The tokenizer knows {tokenizer.num_tokens} tokens and the '
                f'head {self.head.num_tokens}; give both the same number.'
            )
        patch, size = embed.projection.kernel_size, tokenizer.patch_size
        if patch != (size, size):
            raise SimimError(
                f'The tokenizer numbers patches of {size} x {size} pixels and '
                f'the backbone has {patch[0]} x {patch[1]}; give both the '
                'same patch_size.'
            )
        channels = embed.projection.in_channels
        if channels != tokenizer.in_channels:
            raise SimimError(
                f'The tokenizer takes {tokenizer.in_channels} channels and '
                f'the backbone {channels}; give both the same in_channels, '
                'and a PatchTokenizer if it is not 3.'
            )

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): one view, (B, 3, H, W), normalised.
            data_samples (Sequence[DataSample]): with ``mask``, (N,), True on
                masked patches, as many in all images.

        Returns:
            dict[str, Tensor]: see :meth:`TokenHead.loss`.

        Raises:
            SimimError: if no patch is masked.
        """
        view = inputs[0]
        mask = torch.stack([torch.as_tensor(s.mask) for s in data_samples])
        masked = visible_patches([*~mask.bool()])  # (B, M)
        if not masked.numel():
            raise SimimError(
                'No patch is masked, so BEiT has nothing to predict: set '
                'num_masked of the mask to at least 1.'
            )
        masked = masked.to(view.device)
        mask = mask.bool().to(view.device)
        (tokens,) = self.backbone(view, replaced=(mask, self.mask_token))
        tokens = tokens[:, self.backbone.num_extra_tokens :]
        statistics = self.data_preprocessor
        with torch.autocast(view.device.type, enabled=False):
            pixels = view / 255
            if statistics._enable_normalize:
                pixels = (view * statistics.std + statistics.mean) / 255
            answers = self.target_generator(pixels).gather(1, masked)
        return self.head.loss(
            tokens.take_along_dim(masked[..., None], dim=1), answers
        )
