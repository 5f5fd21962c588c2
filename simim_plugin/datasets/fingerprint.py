"""Tell sets of images apart by their names, without reading a picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Subset

from ..pictures.archives import TAR


def fingerprint(paths: Sequence[str], root: str) -> str:
    """Return a hash of the names of files, relative to a folder, in order.

    A moved folder has the same. 1.3 million names take a second.
    """
    if not os.path.exists(root) and '{' in root:  # a pattern of archives
        root = os.path.dirname(root)
    start = len(os.path.join(root, ''))
    names = '\0'.join(path[start:] for path in paths)
    return hashlib.blake2b(os.fsencode(names), digest_size=8).hexdigest()


def content_of(member: Sequence[int]) -> tuple[int, ...]:
    """Return what identifies the content of a file in an archive.

    It is the size, and the CRC in a zip; packed anew, it is the same.
    """
    _, _, size, method, stamp = member
    return (size,) if method == TAR else (size, stamp)


def fingerprint_of(dataset: Any) -> str:
    """Return a hash of what a data set lists, in order.

    Images count by their names below ``data_root`` (those in memory by their
    pixels), with their labels, label maps, and boxes. Data sets in others
    count, too; images in an archive also by their sizes and CRCs. '' for a
    data set that lists nothing.

    Args:
        dataset (Dataset): of mmengine's kind, or one that holds such.
    """
    if isinstance(dataset, Subset):
        return _hash([fingerprint_of(dataset.dataset), *dataset.indices])
    given = getattr(dataset, 'fingerprint', None)
    if isinstance(given, str):
        return given
    parts = getattr(dataset, 'datasets', None)
    if isinstance(parts, Sequence):
        return _hash(map(fingerprint_of, parts))
    if hasattr(dataset, 'dataset'):
        return fingerprint_of(dataset.dataset)
    if not hasattr(dataset, 'get_data_info'):
        return ''
    root = os.path.join(getattr(dataset, 'data_root', None) or '', '')
    return _hash(
        word
        for index in range(len(dataset))
        for word in _words(dataset.get_data_info(index), root)
    )


def _words(item: dict, root: str) -> Iterator[Any]:
    for key in ('img_path', 'seg_map_path'):
        if item.get(key) is not None:
            yield str(item[key]).removeprefix(root)
    if item.get('member') is not None:
        yield content_of(item['member'])
    if hasattr(item.get('img'), 'tobytes'):
        yield item['img'].tobytes()
    yield item.get('gt_label')
    for instance in item.get('instances', ()):
        yield instance.get('bbox_label')
        yield instance.get('bbox')


def _hash(words: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for word in words:
        data = word if isinstance(word, bytes) else os.fsencode(repr(word))
        found.update(data + b'\0')
    return found.hexdigest()
