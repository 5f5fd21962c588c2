"""Linear and nearest-neighbour probes of frozen patch features.

Shape key: B batch, N patches of an image, M patches remembered, C channels,
L classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop, autocast
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import LOOPS, MODELS
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from ..evaluation.features import frozen

# Similarities or votes in memory at once: 256 MB in float32.
_CHUNK = 2**26


@MODELS.register_module()
class LinearSegHead(BaseDecodeHead):
    """BatchNorm without affine and one linear layer, for every patch.

    The dense counterpart of :class:`simim_plugin.evaluation.ProbeHead`. The
    logits are interpolated to the pixels.

    Args:
        in_channels (int): channels C of the feature.
        num_classes (int): number of classes L.
        **kwargs: see MMSegmentation's ``BaseDecodeHead``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, **kwargs: Any
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            channels=in_channels,
            num_classes=num_classes,
            dropout_ratio=0,
            **kwargs,
        )
        self.norm = nn.BatchNorm2d(in_channels, affine=False, eps=1e-6)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return logits (B, L, h, w) of features (B, C, h, w)."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))


@MODELS.register_module()
class KNNSegHead(BaseDecodeHead):
    """Classify every patch by a vote of its nearest neighbours.

    Neighbours are nearest in cosine similarity. Their votes are weighted by
    exp(similarity / temperature), as in
    :func:`simim_plugin.evaluation.knn_accuracy`. A patch votes for each class
    with the class's share of its labelled pixels. The head has no parameters;
    :class:`KNNSegLoop` supplies the patches to remember.

    Args:
        in_channels (int): channels C of the feature.
        num_classes (int): number of classes L.
        k (int): number of neighbours. Defaults to 20.
        temperature (float): of the votes. Defaults to 0.07.
        **kwargs: see MMSegmentation's ``BaseDecodeHead``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        k: int = 20,
        temperature: float = 0.07,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            channels=in_channels,
            num_classes=num_classes,
            dropout_ratio=0,
            init_cfg=None,
            **kwargs,
        )
        del self.conv_seg
        self.k = k
        self.temperature = temperature
        self.features: Tensor | None = None
        self.labels: Tensor | None = None

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Replace the remembered patches.

        Args:
            features (Tensor): (M, C), at any scale.
            labels (Tensor): (M, L), with rows of sum 1.
        """
        self.features = F.normalize(features, dim=1)
        self.labels = labels

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return votes (B, L, h, w) of sum 1 for features (B, C, h, w).

        Raises:
            SimimError: if no patch is remembered.
        """
        if self.features is None or self.labels is None:
            raise SimimError(
                'KNNSegHead remembers no patch; test with '
                "test_cfg=dict(type='KNNSegLoop', train_dataloader=...)."
            )
        feature = self._transform_inputs(inputs)
        batch, channels, *grid = feature.shape
        queries = feature.permute(0, 2, 3, 1).reshape(-1, channels)
        queries = F.normalize(queries.to(self.features), dim=1)
        k = min(self.k, len(self.features))
        held = max(len(self.features), k * self.num_classes)
        votes = []
        for part in queries.split(max(1, _CHUNK // held)):
            similarity, index = (part @ self.features.T).topk(k)
            weight = (similarity / self.temperature).softmax(dim=1)
            votes.append(
                torch.einsum('nk,nkl->nl', weight, self.labels[index])
            )
        return torch.cat(votes).view(batch, *grid, -1).permute(0, 3, 1, 2)


@LOOPS.register_module()
class KNNSegLoop(TestLoop):
    """Make a :class:`KNNSegHead` remember training patches, then test.

    Each process encodes its share of the training images; all processes
    remember the patches of all.

    Args:
        runner (Runner): the runner.
        dataloader (DataLoader | dict): test images.
        evaluator (Evaluator | dict | list): evaluator of the predictions.
        train_dataloader (DataLoader | dict): training images with label
            maps, at most of the size that the backbone takes.
        patches_per_image (int, optional): labelled patches to remember of an
            image, drawn at random. Defaults to None: all.
        fp16 (bool): test under autocast. Defaults to False.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        train_dataloader: DataLoader | dict,
        patches_per_image: int | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.train_dataloader = runner.build_dataloader(
            train_dataloader, seed=runner.seed
        )
        self.patches_per_image = patches_per_image

    def run(self) -> dict[str, float]:
        """Launch the test.

        Raises:
            SimimError: if no training patch has a label.
        """
        model = unwrapped(self.runner.model)
        found = all_gather_object(self._patches(model))
        features, labels = (
            torch.cat(parts) for parts in zip(*found, strict=True)
        )
        if not len(features):
            raise SimimError(
                'No patch of the training images has a label; check the '
                'label maps and reduce_zero_label.'
            )
        device = next(model.parameters()).device
        model.decode_head.remember(features.to(device), labels.to(device))
        self.runner.logger.info(f'Remembered {len(features)} patches.')
        return super().run()

    def _patches(self, model: Any) -> tuple[Tensor, Tensor]:
        """Return features (M, C) and labels (M, L) of this process, on CPU."""
        head = model.decode_head
        draw = torch.Generator().manual_seed(0)
        features = [torch.zeros(0, head.in_channels)]
        labels = [torch.zeros(0, head.num_classes)]
        # The sampler repeats images, so that all processes have as many.
        images = len(self.train_dataloader.dataset)
        left = len(range(get_rank(), images, get_world_size()))
        with frozen(model), autocast(enabled=self.fp16):
            for batch in tqdm(self.train_dataloader, 'memory', leave=False):
                data = model.data_preprocessor(batch, True)
                maps = head._transform_inputs(
                    model.extract_feat(data['inputs'])
                )  # (B, C, h, w)
                truth = torch.cat(
                    [s.gt_sem_seg.data for s in data['data_samples']]
                )  # (B, H, W)
                shares = label_shares(truth, maps.shape[2:], head.num_classes)
                tokens = maps.flatten(2).mT.float()  # (B, N, C)
                for token, share in zip(
                    tokens[:left], shares[:left], strict=True
                ):
                    (index,) = share.sum(dim=1).cpu().nonzero(as_tuple=True)
                    order = torch.randperm(len(index), generator=draw)
                    index = index[order[: self.patches_per_image]]
                    features.append(token.cpu()[index])
                    labels.append(share.cpu()[index])
                left = max(left - len(tokens), 0)
        return torch.cat(features), torch.cat(labels)


def label_shares(
    labels: Tensor, grid: Sequence[int], num_classes: int
) -> Tensor:
    """Compute the share of each class in the labelled pixels of each patch.

    Args:
        labels (Tensor): (B, H, W) class indices; other values are unlabelled.
        grid (Sequence[int]): rows and columns of patches, divisors of H, W.
        num_classes (int): number of classes L.

    Returns:
        Tensor: (B, N, L) float32, rows of sum 1, or 0 without labels.
    """
    batch, height, width = labels.shape
    rows, columns = grid
    labels = labels.long().view(
        *(batch, rows, height // rows, columns, width // columns)
    )
    labels = labels.transpose(2, 3).reshape(batch, rows * columns, -1)
    labels = labels.where(
        (labels >= 0) & (labels < num_classes), num_classes
    )  # (B, N, pixels)
    counts = torch.zeros(
        *(batch, rows * columns, num_classes + 1), device=labels.device
    ).scatter_add_(2, labels, torch.ones_like(labels, dtype=torch.float32))
    counts = counts[..., :num_classes]
    return counts / counts.sum(dim=2, keepdim=True).clamp(min=1)
