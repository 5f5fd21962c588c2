"""Placement of our operators, and errors of missing ones."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from simim_plugin.operators import placing

from .. import UPSTREAM

BUILT = 'def get_compiling_cuda_version(): return {!r}\n'


def python(code: str, *argv: str | Path, cwd: Path | None = None) -> str:
    """Return the output of a new process, which must succeed."""
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, argv)],
        cwd=cwd,
        env={**os.environ, 'PYTHONWARNINGS': 'default'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ('compiled', 'gpu', 'expected', 'sentence'),
    [
        (None, False, True, ''),
        (BUILT.format('not available'), False, False, ''),
        (BUILT.format('12.6'), True, False, ''),
        (
            BUILT.format('not available'),
            True,
            True,
            'of mmcv are for the CPU alone, and there is a GPU; those of',
        ),
        (
            'raise ImportError("undefined symbol: _ZN3c10")',
            False,
            True,
            'of mmcv do not load (undefined symbol: _ZN3c10); those of',
        ),
    ],
    ids=['none', 'usable', 'cuda', 'cpu only', 'broken'],
)
def test_ours_only_if_mmcv_has_no_usable_ones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: str | None,
    gpu: bool,
    expected: bool,
    sentence: str,
) -> None:
    if compiled is not None:
        (tmp_path / '_ext.py').write_text(compiled)
    mmcv = ModuleType('mmcv')
    mmcv.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, 'mmcv', mmcv)
    monkeypatch.delitem(sys.modules, placing.COMPILED)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(placing, '_repair', lambda modules: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        placing.place()
    extension = sys.modules[placing.COMPILED]
    assert isinstance(extension, placing.Operators) == expected
    assert hasattr(extension, 'nms') == expected
    output = ''.join(str(warning.message) for warning in caught)
    assert sentence in output
    assert ('To build them anew: `pip ' in output) == bool(sentence)


@pytest.mark.slow
def test_pretraining_does_not_touch_mmcv() -> None:
    python(
        'import sys\n'
        'import simim_plugin.models, simim_plugin.datasets\n'
        'import simim_plugin.engine, simim_plugin.evaluation\n'
        'assert "mmcv._ext" not in sys.modules\n'
        'assert "simim_plugin.operators" not in sys.modules\n'
    )


def test_operators_import_nothing_of_the_method() -> None:
    output = python(
        'import sys\n'
        'import simim_plugin.operators\n'
        'print(*(m for m in sys.modules if m.startswith("simim_plugin.")))\n'
    )
    assert {name.split('.')[1] for name in output.split()} <= {
        'operators',
        'config_files',  # by the package itself
        'errors',
        'tensors',
        'text',
    }


def test_missing_operators_name_the_build_command(ours) -> None:
    from mmcv.ops import carafe

    with pytest.raises(NotImplementedError) as caught:
        carafe(torch.zeros(1, 4, 4, 4), torch.zeros(1, 9, 8, 8), 3, 1, 2)
    assert 'The operator carafe_forward of mmcv' in str(caught.value)
    name = 'mmcv' if UPSTREAM else 'onedl-mmcv'
    assert f'--no-build-isolation {name}==' in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(UPSTREAM, reason='upstream imports mmcv.ops or fails')
@pytest.mark.parametrize('first', ['mmdet.apis', 'mmseg.apis'])
def test_modules_imported_without_operators_get_them(first: str) -> None:
    """The forks define functions that raise instead of operators."""
    python(
        f'import sys, {first}\n'
        'if "mmcv.ops" in sys.modules: sys.exit()  # it has compiled ones\n'
        'import simim_plugin.operators, mmcv.ops as ops, mmdet.models\n'
        'names = ("batched_nms", "nms", "roi_align", "RoIPool",\n'
        '    "DeformConv2d", "MultiScaleDeformableAttention")\n'
        'left = [\n'
        '    (name, key, vars(module)[key])\n'
        '    for name, module in list(sys.modules.items())\n'
        '    if name.startswith(("mmdet.", "mmseg."))\n'
        '    for key in names\n'
        '    if vars(module).get(key) not in (None, getattr(ops, key),\n'
        '        ops.line_nms)\n'
        ']\n'
        'assert not left, left\n'
        'from mmdet.models.losses.focal_loss import _sigmoid_focal_loss\n'
        'assert _sigmoid_focal_loss is ops.sigmoid_focal_loss\n'
        'from mmdet.models.detectors.dino import'
        ' MultiScaleDeformableAttention as attention\n'
        'assert attention is ops.MultiScaleDeformableAttention\n'
        'from mmseg.models.decode_heads.point_head import point_sample\n'
        'assert point_sample is ops.point_sample\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('base', 'loop'),
    [
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'mmdet.apis'),
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mmdet.utils'),
    ],
)
def test_one_line_in_a_stock_config(
    tmp_path: Path, base: str, loop: str
) -> None:
    """In an empty folder, after the imports of the stock scripts."""
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{base}'\n"
        "custom_imports = dict(imports=['simim_plugin.operators'])\n"
        'model = dict(backbone=dict(init_cfg=None))\n'
    )
    first = '' if UPSTREAM and loop == 'mmdet.apis' else f'import {loop}\n'
    python(
        first + 'from mmengine.config import Config\n'
        'config = Config.fromfile("mine.py")\n'
        'from mmdet.registry import MODELS\n'
        'from mmdet.testing import demo_mm_inputs\n'
        'from mmdet.utils import register_all_modules\n'
        'register_all_modules()\n'
        'model = MODELS.build(config.model)\n'
        'data = demo_mm_inputs('
        '1, (3, 64, 64), num_items=[2], with_mask=True)\n'
        'data = model.data_preprocessor(data, True)\n'
        'losses = model(**data, mode="loss")\n'
        'model.parse_losses(losses)[0].backward()\n'
        'model.eval()(**data, mode="predict")\n',
        cwd=tmp_path,
    )


@pytest.mark.slow
def test_permanent_installation(tmp_path: Path) -> None:
    """``mmcv.ops`` then imports without the plugin."""
    import mmcv

    copy = tmp_path / 'mmcv'
    copy.mkdir()
    for file in Path(mmcv.__path__[0]).iterdir():
        if not file.name.startswith(('_ext', '__pycache__')):
            (copy / file.name).symlink_to(file)
    first = f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
    command = first + 'from simim_plugin.commands.operators import main\n'
    use = first + (
        'import mmdet.apis, torch\n'
        'from mmcv.ops import nms\n'
        'boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])\n'
        'assert len(nms(boxes, boxes[:, 3], 0.5)[1]) == 1\n'
        'import simim_plugin.operators\n'
    )
    assert f'Written: {copy / "_ext.py"}' in python(command + 'main([])')
    sentence = python(use)
    assert 'operators of mmcv' not in sentence
    python(command + 'main(["--remove"])')
    assert not (copy / '_ext.py').exists()
    # Compiled operators have priority.
    (copy / '_ext.so').touch()
    assert 'nothing to do' in python(command + 'main([])')
    assert not (copy / '_ext.py').exists()
