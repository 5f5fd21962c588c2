"""Predict one picture after another, and collect the files of the task.

Shape key: H rows, W columns, K objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image
from torch import Tensor

from ..files import complete_file, write_json
from ..pictures import decode_to_draw
from ..pictures.files import UnreadableImageError
from ..visualization.predictions import (
    Colour,
    Line,
    class_colours,
    draw_label_map,
    draw_objects,
    draw_scores,
    percent,
)
from .finding import Picture

PREDICTIONS = 'predictions.json'


class Predictor(ABC):
    """Predict pictures by an inferencer of an OpenMMLab library.

    Args:
        inferencer: of MMPretrain, MMDetection or MMSegmentation.
        names (Sequence[str]): of the classes.
        out (Path): folder of the results.
    """

    def __init__(
        self, inferencer: Any, names: Sequence[str], out: Path
    ) -> None:
        self.inferencer = inferencer
        self.names = [*names]
        self.out = out
        self.rows: list[dict[str, Any]] = []

    def __call__(self, picture: Picture, draw: bool = True) -> None:
        """Predict a picture, and draw it below ``out/drawn``.

        Args:
            picture (Picture): a file.
            draw (bool): Defaults to True.

        Raises:
            UnreadableImageError: if the file cannot be read or resized.
        """
        sample = self.sample(picture)
        self.collect(picture, sample)
        if draw:
            image = decode_to_draw(fileio.get(picture.path), name=picture.path)
            save(self.draw(image, sample), self.out, 'drawn', picture)

    def sample(self, picture: Picture) -> Any:
        """Return the data sample with the predictions of a picture."""
        try:
            (batch,) = self.inferencer.preprocess([picture.path])
        except (ValueError, cv2.error) as error:
            reason = ' '.join(str(error).split())
            raise UnreadableImageError(
                f'The pipeline of the config does not take {picture.path} '
                f'({reason}); it may be too long and narrow, cut it into '
                'parts.'
            ) from error
        # Two libraries put the names of the files before the batch.
        batch = batch if isinstance(batch, dict) else batch[1]
        (sample,) = self.inferencer.forward(batch)
        return sample

    def finish(self) -> list[str]:
        """Write the files of all pictures; return their names."""
        write_json(self.out / PREDICTIONS, self.rows)
        return [PREDICTIONS]

    def note(self) -> str:
        """Return a sentence on what the drawings lack, or ''."""
        return ''

    @abstractmethod
    def collect(self, picture: Picture, sample: Any) -> None:
        """Keep what is predicted of a picture."""

    @abstractmethod
    def draw(self, image: np.ndarray, sample: Any) -> Image.Image:
        """Draw what is predicted on an image (H, W, 3)."""


class ClassPredictor(Predictor):
    """Predict the most likely classes.

    Args:
        top (int): number of classes, at most all. Defaults to 5.
        **kwargs: of :class:`Predictor`.
    """

    def __init__(self, top: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top = min(top, len(self.names))

    def collect(self, picture: Picture, sample: Any) -> None:
        """Keep the classes with their names and scores."""
        height, width = sample.ori_shape
        self.rows.append(
            dict(
                file_name=picture.name,
                width=width,
                height=height,
                predictions=[
                    dict(label=k, name=self.names[k], score=round(score, 6))
                    for k, score in self._best(sample)
                ],
            )
        )

    def draw(self, image: np.ndarray, sample: Any) -> Image.Image:
        """Draw the picture beside its classes."""
        return draw_scores(
            image, [(self.names[k], score) for k, score in self._best(sample)]
        )

    def _best(self, sample: Any) -> list[tuple[int, float]]:
        scores, labels = sample.pred_score.float().topk(self.top)
        return [*zip(labels.tolist(), scores.tolist(), strict=True)]


class ObjectPredictor(Predictor):
    """Predict boxes, and masks if the model has any.

    Args:
        ids (Mapping[str, int]): category ids of the names.
        threshold (float): smallest score of an object that is drawn.
            Defaults to 0.3.
        **kwargs: of :class:`Predictor`.
    """

    def __init__(
        self, ids: Mapping[str, int], threshold: float = 0.3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.ids = [ids[name] for name in self.names]
        self.threshold = threshold
        self.colours = class_colours(len(self.names))
        self.images: list[dict[str, Any]] = []

    def collect(self, picture: Picture, sample: Any) -> None:
        """Keep the objects as in the results of COCO."""
        height, width = sample.ori_shape
        image = dict(
            id=len(self.images) + 1,
            file_name=picture.name,
            width=width,
            height=height,
        )
        self.images.append(image)
        found = sample.pred_instances.cpu()
        runs = _runs(found.get('masks'))
        for k, label in enumerate(found.labels.tolist()):
            left, top, right, bottom = found.bboxes[k].tolist()
            box = left, top, right - left, bottom - top
            row = dict(
                image_id=image['id'],
                file_name=picture.name,
                category_id=self.ids[label],
                category_name=self.names[label],
                bbox=[round(edge, 2) for edge in box],
                score=round(float(found.scores[k]), 6),
            )
            if runs is not None:
                row['segmentation'] = runs[k]
            self.rows.append(row)

    def draw(self, image: np.ndarray, sample: Any) -> Image.Image:
        """Draw the objects above the threshold."""
        found = sample.pred_instances.cpu()
        found = found[found.scores >= self.threshold]
        labels, masks = found.labels.tolist(), found.get('masks')
        return draw_objects(
            image,
            found.bboxes.numpy(),
            None if masks is None else np.asarray(masks, bool),
            [self.names[k] for k in labels],
            found.scores.tolist(),
            [self.colours[k] for k in labels],
        )

    def note(self) -> str:
        """Say that no object is drawn, and why."""
        best = max((row['score'] for row in self.rows), default=0.0)
        if best >= self.threshold:
            return ''
        return (
            f' No object has a score of {self.threshold:g} (the best: '
            f'{best:.2f}), so none is drawn; lower --score-thr, or train '
            'longer.'
        )

    def finish(self) -> list[str]:
        """Write the objects, and the images and categories beside them."""
        rows = [
            dict(id=number, name=name)
            for number, name in zip(self.ids, self.names, strict=True)
        ]
        content = dict(images=self.images, annotations=[], categories=rows)
        write_json(self.out / 'images.json', content)
        return [*super().finish(), 'images.json']


class PixelPredictor(Predictor):
    """Predict the class of every pixel.

    Args:
        palette (Sequence[Sequence[int]]): RGB of the classes.
        **kwargs: of :class:`Predictor`.
    """

    def __init__(
        self, palette: Sequence[Sequence[int]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.palette: list[Colour] = [
            (int(red), int(green), int(blue)) for red, green, blue in palette
        ]

    def collect(self, picture: Picture, sample: Any) -> None:
        """Write the label map, and keep the area of each class."""
        labels = _labels(sample)
        height, width = labels.shape
        classes = [
            dict(
                label=k,
                name=self.names[k],
                pixels=count,
                share=round(count / labels.size, 6),
            )
            for k, count in self._areas(labels)
        ]
        self.rows.append(
            dict(
                file_name=picture.name,
                label_map=f'label_maps/{picture.result}',
                width=width,
                height=height,
                classes=classes,
            )
        )
        save(self._as_image(labels), self.out, 'label_maps', picture)

    def draw(self, image: np.ndarray, sample: Any) -> Image.Image:
        """Draw the classes over the picture."""
        labels = _labels(sample)
        legend: list[Line] = [
            (self.palette[k], percent(self.names[k], count / labels.size))
            for k, count in self._areas(labels)
        ]
        return draw_label_map(image, labels, self.palette, legend)

    def finish(self) -> list[str]:
        """Write the areas, and the values of the label maps."""
        rows = [
            dict(label=k, name=name, colour=self.palette[k])
            for k, name in enumerate(self.names)
        ]
        write_json(self.out / 'classes.json', rows)
        return [*super().finish(), 'classes.json', 'label_maps/']

    def _areas(self, labels: np.ndarray) -> list[tuple[int, int]]:
        """Return labels and their pixels, the largest area first."""
        counts = np.bincount(labels.ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind='stable')
        return [(int(k), int(counts[k])) for k in order if counts[k]]

    def _as_image(self, labels: np.ndarray) -> Image.Image:
        if len(self.names) > 256:  # a palette has no more
            return Image.fromarray(labels.astype(np.uint16))
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette([part for colour in self.palette for part in colour])
        return image


def save(image: Image.Image, out: Path, folder: str, picture: Picture) -> None:
    """Write a PNG file of a picture below ``out/folder``."""
    with complete_file(out / folder / picture.result) as part:
        image.save(part, format='PNG')


def _labels(sample: Any) -> np.ndarray:
    """Return the label map (H, W) of a data sample."""
    # A head of one channel predicts 0 and 1 as floats.
    return sample.pred_sem_seg.data[0].long().cpu().numpy()


def _runs(masks: Tensor | None) -> list[dict] | None:
    """Return masks (K, H, W) as COCO's compressed runs."""
    if masks is None:
        return None
    from pycocotools import mask as coco

    found = []
    for mask in np.asarray(masks, np.uint8):
        run = coco.encode(np.asfortranarray(mask))
        found.append(dict(run, counts=run['counts'].decode()))
    return found
