"""Ground truth as the APIs of COCO and LVIS evaluate it.

Both take an annotation with the id 0 for none, fail on ids that are texts,
and decode the masks of all annotations, also of those that training leaves
out.
"""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import SimimError

COCO_ADDRESS = 'http://images.cocodataset.org/'
"""Start of the ``coco_url`` of images, before their paths."""


@contextmanager
def without_mark(file: str | None) -> Iterator[str | None]:
    """Yield a file that the APIs of COCO and LVIS read.

    They fail on the byte order mark that some editors write.

    Args:
        file (str, optional): annotations, or None.

    Yields:
        str | None: the file, or a temporary copy without the mark.
    """
    mark = codecs.BOM_UTF8
    if file is None or not os.path.isfile(file):
        yield file
        return
    with open(file, 'rb') as opened:
        if opened.read(len(mark)) != mark:
            yield file
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, os.path.basename(file))
            with open(copy, 'wb') as out:
                shutil.copyfileobj(opened, out)
            yield copy


def check_images(
    samples: Sequence[Mapping[str, Any]],
    listed: Mapping[Any, Mapping[str, Any]],
    file: str | None,
) -> None:
    """Check that the annotations of a metric are those of the test's images.

    Many tools count the images of each part of a set from 1, so that an
    equal id alone may be that of another image.

    Args:
        samples (Sequence[Mapping]): of a test, with ``img_id`` and, if it is
            known, ``img_path``.
        listed (Mapping): from each id to the image of the annotations.
        file (str, optional): of the annotations, for the error.

    Raises:
        SimimError: if an id is missing, or is that of another file.
    """
    for sample in samples:
        number, path = sample['img_id'], sample.get('img_path')
        image = listed.get(number)
        if image is not None and (path is None or _is_of(image, path)):
            continue
        name = image and (image.get('file_name') or image.get('coco_url'))
        fault = f'has {name} with' if image else 'has no image with'
        raise SimimError(
            f'The annotation file {file} of the evaluation {fault} the id '
            f'{number}, which is {path or "an image"} in the data set; set '
            'ann_file of the evaluator to that of the data set.'
        )


def _is_of(image: Mapping[str, Any], path: str) -> bool:
    """Return whether an image of annotations is the file at a path."""
    names = [
        str(image[key]).removeprefix(COCO_ADDRESS)
        for key in ('file_name', 'coco_url')
        if image.get(key)  # some tools write null
    ]
    path = unicodedata.normalize('NFC', path)
    return not names or any(
        f'/{path}'.endswith('/' + unicodedata.normalize('NFC', name))
        for name in names
    )


def number_annotations(dataset: dict[str, Any]) -> None:
    """Give the annotations of a file ids from 1, and each a whole mask.

    Annotations without a polygon of three points or runs get an empty mask.
    Those that are marked as ignored become crowds, since COCO's API reads no
    other mark. The index of an API must be made anew.

    Args:
        dataset (dict): the content of a file in the format of COCO or LVIS.
    """
    sizes = {
        image['id']: [image.get('height'), image.get('width')]
        for image in dataset['images']
    }
    for number, annotation in enumerate(dataset.get('annotations', ()), 1):
        annotation['id'] = number
        ignored = annotation.get('iscrowd') or annotation.get('ignore')
        annotation['iscrowd'] = int(bool(ignored))
        size = sizes.get(annotation['image_id'])
        if size is not None and None not in size:
            mask = annotation.get('segmentation')
            annotation['segmentation'] = _whole(mask, *size)


def _whole(mask: Any, height: int, width: int) -> Any:
    """Return run-length or polygon masks that can be decoded."""
    if isinstance(mask, dict):
        return mask
    polygons = mask if isinstance(mask, list) else []
    polygons = [p for p in polygons if isinstance(p, list) and len(p) >= 6]
    return polygons or dict(size=[height, width], counts=[height * width])
