"""Load the boxes and masks of an image."""

from __future__ import annotations

import copy

from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

from ..errors import SimimError


@TRANSFORMS.register_module()
class LoadInstances(LoadAnnotations):
    """MMDetection's ``LoadAnnotations``, with run-length masks decoded.

    With ``poly2mask=False``, MMDetection's own transform turns objects with a
    run-length mask into ignored ones. This class makes bitmaps of all masks
    of an image with such an object, and polygons of those of other images.
    Crowd regions need no mask.
    Arguments are those of
    :class:`mmdet.datasets.transforms.LoadAnnotations`.
    """

    def _load_masks(self, results: dict) -> None:
        """Load the masks; called by the base class.

        Raises:
            SimimError: if a run-length mask cannot be decoded.
        """
        instances = results.get('instances', [])
        for instance in instances:
            if instance['ignore_flag']:
                instance.setdefault('mask', [])
        loader = copy.copy(self)
        loader.poly2mask = self.poly2mask or any(
            isinstance(instance['mask'], dict) and not instance['ignore_flag']
            for instance in instances
        )
        try:
            LoadAnnotations._load_masks(loader, results)
        except ValueError as error:
            raise SimimError(
                f'Cannot decode the run-length masks of '
                f'{results.get("img_path")} ({error}); export them again.'
            ) from error
