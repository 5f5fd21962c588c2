"""Small data sets of one's own, with what people have in theirs."""

import json

import numpy as np
from PIL import Image

CLASSES = ('Äpfel & Birnen', 'a rare one', 'nut')


def picture(path, size=(48, 40), seed=0):
    """Write a picture of coloured noise; return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def class_folders(root, counts=(9, 4, 7), broken=True):
    """Write folders of classes, one with a file that is no picture."""
    for number, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        for k in range(count):
            picture(root / name / f'bild {k}.png', (48 + k, 40), number)
    if broken:
        (root / 'nut' / 'broken.jpg').write_bytes(b'\xff\xd8\xff nothing')
    return root


def coco(root, count=10, masks=True, name='instances.json', first=0):
    """Write pictures and annotations with category ids 3, 17 and 90."""
    images, annotations = [], []
    ids = dict(zip((17, 90, 3), CLASSES, strict=True))
    for k in range(first, first + count):
        file = f'bild {k}.png'
        picture(root / 'images' / file, (64, 48), k)
        images.append(dict(id=100 + k, file_name=file, width=64, height=48))
        categories = [17, 3] if k > first else [17, 90]
        for n, category in enumerate(categories):
            left, top = 5 + 20 * n, 4 + k % 10
            box = [left, top, 18, 20]
            right, low = left + 18, top + 20
            corners = [left, top, right, top, right, low, left, low]
            annotations.append(
                dict(
                    id=10 * k + n,
                    image_id=100 + k,
                    category_id=category,
                    bbox=box,
                    area=360,
                    iscrowd=0,
                    **(dict(segmentation=[corners]) if masks else {}),
                )
            )
    file = root / name
    categories = [dict(id=k, name=n) for k, n in ids.items()]
    categories.append(dict(id=0, name='never'))
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    file.write_text(json.dumps(content))
    return file


def label_maps(root, count=8, values=(0, 255), images='images', maps='masks'):
    """Write pictures and label maps whose halves have other values."""
    for k in range(count):
        picture(root / images / f'bild {k}.jpg', (64, 48), k)
        labels = np.full((48, 64), values[0], np.uint8)
        width = 64 // len(values)
        for n, value in enumerate(values):
            labels[:, n * width :] = value
        path = root / maps / f'bild {k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    return root
