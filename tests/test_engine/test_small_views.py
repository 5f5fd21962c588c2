"""A run on small views first: sizes, numbers, exact resume."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS
from torch.utils.data import ConcatDataset, Dataset

from simim_plugin.datasets import BlockwiseMask, ImageFolder, PairedViews
from simim_plugin.datasets.colour_draws import RADIUS
from simim_plugin.engine.small_views import small_pipeline
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import OnlineMatches  # noqa: F401
from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models import SiameseIMViT
from simim_plugin.models.positions import scaled_table, sincos

from ..test_models.helpers import small_model
from .test_resume import Disturb, assert_same_run, settings
from .test_runner import make_runner  # noqa: F401
from .training import printed, scalars, smooth_picture

PIPELINE = [
    dict(type='LoadRGBImage'),
    dict(type='PairedViews', size=16, crop_scale=(0.3, 1.0)),
    dict(type='BlockwiseMask', grid=(4, 4), num_masked=8, min_block=4),
    dict(type='PackInputs', algorithm_keys=['geometry']),
]
HOOK = dict(type='SmallViewsFirst', share=0.75)


@HOOKS.register_module(force=True)
class Seen(Hook):
    """Keep the views and masks of every iteration."""

    batches: list = []  # noqa: RUF012

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        views = [np.stack(view) for view in data_batch['inputs']]
        visible = data_batch['data_samples'].visible
        self.batches.append((runner.iter, views, visible.clone()))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder of 27 smooth pictures."""
    root = tmp_path_factory.mktemp('pictures')
    draw = np.random.default_rng(0)
    for k in range(27):
        smooth_picture(root / f'{k}.png', draw)
    return root


@pytest.fixture
def train(make_runner, tmp_path, folder):  # noqa: F811
    """Train two epochs of 6 iterations of the pictures."""

    def run(name, *hooks, workers=0, accumulated=1, loader=(), **options):
        Seen.batches = []
        options = settings(workers, accumulated, **options)
        options['custom_hooks'] = [
            hook
            for hook in options['custom_hooks']
            if hook['type'] is not Disturb
        ] + [*hooks, dict(type='Seen')]
        options['train_dataloader']['dataset'] = ImageFolder(
            str(folder), pipeline=PIPELINE
        )
        options['train_dataloader'].update(loader)
        runner = make_runner(work_dir=str(tmp_path / name), **options)
        runner.folder = tmp_path / name
        runner.train()
        return runner, Seen.batches

    return run


@pytest.mark.parametrize('workers', [0, 2])
def test_views_are_small_first(train, workers):
    """Iterations 1 to 8 of 12; the others are those of a plain run."""
    runner, batches = train('small', HOOK, workers=workers)
    log = printed(runner)
    _, plain = train('plain', workers=workers)
    assert [step for step, *_ in batches] == list(range(12))
    for (step, views, visible), (_, whole, seen) in zip(
        batches, plain, strict=True
    ):
        small = 1 <= step < 9
        side, patches = (8, 2) if small else (16, 8)
        assert [view.shape for view in views] == [(4, 3, side, side)] * 2
        assert visible.shape == (4, patches)
        assert visible.max() < (side // 4) ** 2
        if small:  # the same crops, colours aside
            for view, other in zip(views, whole, strict=True):
                coarse = other.reshape(4, 3, 8, 2, 8, 2).mean((3, 5))
                assert abs(view - coarse).mean() < 4
        else:
            for view, other in zip(views, whole, strict=True):
                assert np.array_equal(view, other)
            assert torch.equal(visible, seen)
    assert 'views of 0.5 of the side from here on; iteration 9 of' in log
    assert 'views of full size from here on' in log


@pytest.mark.parametrize(
    ('workers', 'accumulated', 'after'),
    [(0, 1, 4), (2, 1, 8), (2, 1, 9), (2, 1, 11), (0, 3, 9)],
)
def test_a_resumed_run_is_the_same_run(
    train, tmp_path, workers, accumulated, after
):
    case = dict(workers=workers, accumulated=accumulated)
    train('whole', HOOK, **case)
    file = tmp_path / 'whole' / f'iter_{after}.pth'
    train('part', HOOK, resume=True, load_from=str(file), **case)
    assert_same_run(tmp_path / 'whole', tmp_path / 'part', after)


def test_the_switch_falls_between_optimizer_steps(train):
    hook = dict(HOOK, share=0.66)  # 7.9 iterations
    _, batches = train('run', hook, accumulated=3)
    sides = [views[0].shape[-1] for _, views, _ in batches]
    assert sides == [16] * 3 + [8] * 6 + [16] * 3


def test_an_epoch_of_few_batches_has_small_views(train):
    """MMEngine wraps the set of such an epoch."""
    _, batches = train('run', HOOK, loader=dict(num_batch_per_epoch=3))
    sides = [views[0].shape[-1] for _, views, _ in batches]
    assert sides == [16] + [8] * 3 + [16] * 2


def test_a_set_without_a_pipeline_is_refused(train, folder):
    class Composed(Dataset):
        def __init__(self):
            self.steps = Compose(PIPELINE)

        def __len__(self):
            return 27

        def __getitem__(self, k):
            return self.steps(dict(img_path=str(folder / f'{k}.png')))

    with pytest.raises(SimimError, match='no attribute `pipeline`'):
        train('run', HOOK, loader=dict(dataset=Composed()))
    # Its views would keep their size among the small ones of the other set.
    mixed = ConcatDataset(
        [ImageFolder(str(folder), pipeline=PIPELINE), Composed()]
    )
    with pytest.raises(SimimError, match='The Composed of the training set'):
        train('mixed', HOOK, loader=dict(dataset=mixed))


def test_matches_are_of_full_views(train, folder):
    """Pairs are the same with and without small views."""
    matches = dict(type='OnlineMatches', folder=str(folder), interval=1)
    shares = []
    for name, hooks in (('small', [HOOK]), ('plain', [])):
        runner, _ = train(name, *hooks, matches)
        found = [line for line in scalars(runner) if 'matches/share' in line]
        assert [line['epoch'] for line in found] == [0, 1, 2]
        shares.append([line['matches/share'] for line in found])
    assert shares[0][0] == shares[1][0]


def test_positions_of_small_views_keep_their_range():
    """A point of a view has one position at all sizes."""
    neck = small_model().neck
    assert torch.equal(neck._positions((4, 4)), neck.pos_embed[0, 1:])
    table = neck._positions((2, 2)).view(2, 2, -1)
    # The centre of a small patch lies between two patches of the full view.
    rows = sincos(torch.tensor([0.5, 2.5], dtype=torch.float64), 8).float()
    half = table.shape[-1] // 2
    for k in range(2):
        torch.testing.assert_close(table[k, 0, :half], rows[k])
        torch.testing.assert_close(table[0, k, half:], rows[k])
    box = View.of((0.0, 0.0, 20.0, 20.0), False)
    same = PairGeometry.stack([PairGeometry(box, box)])
    tokens = neck.mask_tokens(same, (2, 2))[0]
    # Of equal views, they are those of the same points of the table.
    scale = torch.tensor([0.0, 1.0]).repeat_interleave(4).repeat(2)
    embedding = torch.cat([table.flatten(0, 1), scale.expand(4, -1)], -1)
    expected = neck.relative_map(embedding) + neck.mask_token[0, 0]
    torch.testing.assert_close(tokens, expected)


def test_the_backbone_keeps_the_range_of_positions():
    """Its bicubic table is close to the positions of the decoder."""
    vit = SiameseIMViT(arch='small', img_size=224, patch_size=16)
    vit.init_weights()
    for grid in ((7, 7), (8, 8), (10, 10)):
        exact = scaled_table(grid, (14, 14), vit.embed_dims)
        table = vit._positions(grid).double()
        cosine = torch.cosine_similarity(table, exact, dim=-1)
        assert cosine.min() > 0.999, grid


@pytest.mark.parametrize('defer', [False, True])
def test_small_views_are_blurred_less(defer):
    """In pixels, so that they show what the full views show."""
    blurs = [
        dict(
            type='FastGaussianBlur',
            magnitude_range=(0.1, 2.0),
            magnitude_std='inf',
            prob=1.0,
        ),
        dict(type='FastGaussianBlur', radius=3.0, prob=1.0),
    ]
    full = PairedViews(64, online=blurs[:1], target=blurs[1:], defer=defer)
    small = full.of_size((32, 16))  # a mean scale of 0.35
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    drawn = []
    for views in (full, small):
        np.random.seed(0)
        if defer:
            online, target = views.transform(dict(img=image))['colours']
            drawn.append([online[RADIUS], target[RADIUS]])
        else:
            (online,), (target,) = (
                role.transforms for role in (views.online, views.target)
            )
            drawn.append([online.draw(), target.draw()])
    assert drawn[0][1] == 3.0
    assert drawn[1] == pytest.approx([8**-0.5 * one for one in drawn[0]])
    (kept,) = full.target.transforms
    assert kept.radius == 3.0


def test_a_small_view_is_the_full_view_at_half_the_resolution():
    """Its blur, too. With the blur of the full view it would lack detail."""
    coarse = np.random.default_rng(0).integers(40, 216, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (512, 384), interpolation=cv2.INTER_CUBIC)
    blurring = [dict(type='FastGaussianBlur', radius=6.0, prob=1.0)]
    full = PairedViews(128, online=blurring, target=blurring)
    same_blur = PairedViews(64, online=blurring, target=blurring)
    views = []
    for transform in (full, full.of_size((64, 64)), same_blur):
        np.random.seed(1)
        torch.manual_seed(1)
        views.append(transform.transform(dict(img=image))['img'][0])
    halved = cv2.resize(views[0], (64, 64), interpolation=cv2.INTER_AREA)
    small, blurred = (
        np.abs(halved.astype(int) - view).mean() for view in views[1:]
    )
    assert small < 1
    assert blurred > 5 * small


def test_transforms_of_other_sizes():
    views = PairedViews(size=(16, 24)).of_size((8, 12))
    assert views.size == views.target_size == (8, 12)
    mask = BlockwiseMask((14, 14), 115, 16).on_grid((7, 7))
    assert (mask.grid, mask.num_masked, mask.min_block) == ((7, 7), 29, 4)
    assert all(mask.draw().sum() == 29 for _ in range(20))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(scale=0.1), '0 x 0 patches of 4 x 4'),
        (dict(scale=0.9), '4 x 4 patches of 4 x 4'),
        (dict(share=0.1), 'at iteration 1 of 12, and they begin at 1'),
        (dict(share=0.99), 'at iteration 12 of 12'),
    ],
)
def test_settings_that_cannot_be_are_refused(train, options, words):
    with pytest.raises(SimimError, match=words):
        train('run', dict(type='SmallViewsFirst', **options))


@pytest.mark.parametrize('kind', ['small target', 'no decoder'])
def test_models_of_one_size_are_refused(make_runner, folder, kind):  # noqa: F811
    model = small_model()
    if kind == 'small target':
        model.target_positions = torch.zeros(1)
    else:
        model.neck = torch.nn.Identity()
    options = settings()
    options['custom_hooks'] = [HOOK]
    with pytest.raises(SimimError, match='SiameseIM has one size of its'):
        make_runner(model, **options).train()


def test_another_loop_is_refused(make_runner):  # noqa: F811
    with pytest.raises(SimimError, match='ExactEpochLoop'):
        make_runner(custom_hooks=[HOOK]).train()


def test_other_transforms_and_models_are_refused(monkeypatch):
    vit = small_model().backbone
    pipeline = Compose(PIPELINE)
    small_pipeline(pipeline, 0.5, vit)

    class Grid:
        grid = (4, 4)

    steps = pipeline.transforms
    with pytest.raises(SimimError, match='Grid has a grid'):
        pipeline.transforms = [*steps, Grid()]
        small_pipeline(pipeline, 0.5, vit)
    with pytest.raises(SimimError, match=r'one PairedViews .*, not 0'):
        pipeline.transforms = steps[:1]
        small_pipeline(pipeline, 0.5, vit)
    pipeline.transforms = steps
    vit.bias_index = torch.zeros(1)
    with pytest.raises(SimimError, match='relative_bias'):
        small_pipeline(pipeline, 0.5, vit)
