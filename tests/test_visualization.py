"""Pictures: drawn positions, colours and texts agree with the numbers."""

import base64
import io
import json
import re

import numpy as np
import pytest
import tifffile
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from mmengine.config import Config
from PIL import Image

from simim_plugin import config_path
from simim_plugin.checkpoint import CheckpointError, load_backbone
from simim_plugin.commands import visualize as commands
from simim_plugin.commands.visualize import (
    find_images,
    main,
    read_image,
    square,
)
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import PatchMatches
from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models import SiameseIMViT
from simim_plugin.visualization import (
    draw_across,
    draw_attention,
    draw_loss,
    draw_matches,
    draw_pair,
    draw_runs,
    draw_tokens,
    read_run,
    read_scalars,
)
from simim_plugin.visualization.encoder import FrozenEncoder
from simim_plugin.visualization.saving import save_figures
from simim_plugin.visualization.side_by_side import MOST_LINES, sparse
from simim_plugin.visualization.style import GREEN, GREY, RED, new_figure
from simim_plugin.visualization.tokens import (
    colours_of,
    nearest_patches,
    principal_parts,
)

from .test_checkpoint.families import saved
from .test_checkpoint.helpers import HEADS, our_vit

GRID = (4, 6)
KNN = 'siamese_im_vit-micro-p8_knn_demo.py'


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in 'ab']


def geometry_of(online_flip, target_flip):
    return PairGeometry(
        View.of((5, 10, 40, 60), online_flip),
        View.of((12, 0, 60, 50), target_flip),
    )


def strokes(axes):
    """Return the segments (x, y) by colour."""
    return {
        to_hex(lines.get_colors()[0], keep_alpha=False).upper(): (
            lines.get_segments()
        )
        for lines in axes.collections
        if isinstance(lines, LineCollection) and lines.get_segments()
    }


def boxes(axes):
    """Return (left, top, width, height, filled) of every rectangle."""
    return [
        (*box.get_xy(), box.get_width(), box.get_height(), box.get_fill())
        for box in axes.patches
        if isinstance(box, Rectangle)
    ]


@pytest.mark.parametrize('online_flip', [False, True])
@pytest.mark.parametrize('target_flip', [False, True])
def test_target_grid_follows_the_geometry(views, online_flip, target_flip):
    geometry = geometry_of(online_flip, target_flip)
    image = np.zeros((80, 100, 3), np.uint8)
    figure = draw_pair(image, views, geometry, np.zeros(24, bool), GRID)
    asked = figure.axes[3]
    (lines,) = strokes(asked).values()
    corners = np.stack(lines[: GRID[0] + 1])  # (R + 1, C + 1, 2) x, y
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    y, x = geometry.positions(GRID, GRID)
    np.testing.assert_allclose(centres[..., 1], y[:, None].expand(GRID))
    np.testing.assert_allclose(centres[..., 0], x[None].expand(GRID))
    # The panel contains the whole grid and the online view.
    left, right = asked.get_xlim()
    bottom, top = asked.get_ylim()
    points = np.concatenate(
        [corners.reshape(-1, 2), [[-0.5, -0.5], [5.5, 3.5]]]
    )
    assert (points > [left, top]).all() and (points < [right, bottom]).all()
    # The dot marks the first patch.
    dot = asked.collections[-1].get_offsets()[0]
    np.testing.assert_allclose(dot, [x[0], y[0]])


def test_boxes_and_masked_patches(views):
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    image = np.zeros((80, 100, 3), np.uint8)
    figure = draw_pair(image, views, geometry_of(False, True), mask, GRID)
    original, masked, whole, asked = figure.axes
    assert boxes(original) == [(10, 5, 60, 40, False), (0, 12, 50, 60, False)]
    for axes in (masked, asked):
        grey = [box[:2] for box in boxes(axes) if box[-1]]
        assert grey == [(1.5, 0.5), (4.5, 2.5)]
        assert to_hex(axes.patches[0].get_facecolor()) == GREY
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert '2 of 24 patches masked' in texts
    assert 'never masked, mirrored' in texts
    np.testing.assert_array_equal(masked.images[0].get_array(), views[0])
    np.testing.assert_array_equal(whole.images[0].get_array(), views[1])


def test_matches_connect_the_right_patches(views):
    true = torch.full((2, *GRID, 2), -9.0)
    true[1, 0, 1] = torch.tensor([1.0, 2.0])
    true[1, 3, 5] = torch.tensor([0.0, 0.0])
    nearest = torch.zeros(2, *GRID, 2, dtype=torch.long)
    nearest[1, 0, 1] = torch.tensor([2, 2])
    nearest[1, 3, 5] = torch.tensor([0, 4])
    matches = PatchMatches(true, nearest, GRID)
    figure = draw_matches([views, views[::-1]], dict(One=matches, Two=matches))
    first, _, second, _ = figure.axes
    assert strokes(first) == {}
    shift = 1.5 * GRID[1]
    found = {c: np.concatenate(s).tolist() for c, s in strokes(second).items()}
    assert found == {
        GREEN: [[1, 0], [shift + 2, 2]],
        RED: [[5, 3], [shift + 4, 0]],
    }
    texts = [text.get_text() for text in second.texts]
    assert '1 of 2 patches find their partner' in texts
    left, right = second.images
    np.testing.assert_array_equal(left.get_array(), views[0])
    np.testing.assert_array_equal(right.get_array(), views[1])
    assert right.get_extent()[0] == shift - 0.5


def write_log(folder, entries):
    (folder / 'vis_data').mkdir(parents=True)
    lines = [json.dumps(entry) + '\n' for entry in entries]
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(lines))


def entry(step, loss):
    return dict(
        step=step, loss=loss, positive_term=2 * loss, negative_term=-loss, lr=1
    )


def test_scalars_of_the_newest_run_are_read(tmp_path):
    write_log(tmp_path / '20260102_000000', [entry(1, 9.0)])
    newest = [entry(5, 3.0), dict(step=7, accuracy=1.0), entry(10, 2.0)]
    write_log(tmp_path / '20260103_000000', newest)
    assert read_scalars(tmp_path) == dict(
        iteration=[5, 10],
        loss=[3.0, 2.0],
        positive_term=[6.0, 4.0],
        negative_term=[-3.0, -2.0],
    )


def test_missing_scalars_are_reported(tmp_path):
    with pytest.raises(SimimError, match='no logged figures loss'):
        read_scalars(tmp_path)
    write_log(tmp_path / '20260102_000000', [dict(step=1, lr=1.0)])
    with pytest.raises(SimimError, match='no logged figures loss'):
        read_scalars(tmp_path)


@pytest.mark.parametrize('points', [1, 3, 200])
def test_loss_curve_shows_every_point_and_their_average(points):
    steps = 5 * np.arange(1, points + 1)
    line = 4.0 - 0.01 * steps
    curve = dict(
        iteration=steps, loss=line, positive_term=-line, negative_term=line**2
    )
    figure = draw_loss(curve)
    for axes, name in zip(figure.axes, list(curve)[1:], strict=True):
        raw, smooth = axes.lines
        np.testing.assert_array_equal(raw.get_xydata().T, [steps, curve[name]])
        # Except at the ends, the average of a straight line is the line.
        inner = slice(points // 40, points - points // 40)
        if name != 'negative_term':
            np.testing.assert_allclose(
                smooth.get_ydata()[inner], curve[name][inner], atol=1e-12
            )
    figure.canvas.draw()


def test_many_lines_are_thinned(views):
    grid = (28, 28)
    true = torch.stack(
        torch.meshgrid(*map(torch.arange, grid), indexing='ij'), dim=-1
    )[None].double()
    matches = PatchMatches(true, true.long(), grid)
    figure = draw_matches([views], {'Identity': matches})
    (lines,) = strokes(figure.axes[0]).values()
    assert MOST_LINES / 2 < len(lines) < 2 * MOST_LINES
    texts = [text.get_text() for text in figure.axes[0].texts]
    note = '784 of 784 patches find their partner; one in 16 is drawn'
    assert note in texts
    for start, end in lines:  # all are horizontal in an identity pair
        np.testing.assert_array_equal(end - start, [1.5 * grid[1], 0])


def test_few_lines_are_all_drawn():
    asked = torch.rand(8, 8) < 0.9
    drawn, note = sparse(asked)
    assert note == '' and torch.equal(drawn, asked)


def test_principal_components_share_one_basis():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    spread = torch.tensor([9.0, 4.0, 1.0] + 13 * [0.01])
    tokens = torch.randn(3, 5, 7, 16, generator=generator) * spread
    parts, shares = principal_parts(tokens @ basis.T + 100)
    assert parts.shape == (3, 5, 7, 3)
    for i in range(3):
        both = torch.stack([parts[..., i].flatten(), tokens[..., i].flatten()])
        assert torch.corrcoef(both)[0, 1].abs() > 0.95
    assert shares.sum() == pytest.approx(1, abs=1e-3)
    assert (shares.diff() < 0).all()
    # The order of the images does not matter.
    again, _ = principal_parts((tokens @ basis.T + 100).flip(0))
    torch.testing.assert_close(again.flip(0), parts)


def test_colours_follow_the_components():
    parts = torch.zeros(9, 3)
    parts[1, 0], parts[2, 0] = -1, 1
    parts[3, 1], parts[4, 1] = -1, 1
    parts[5, 2], parts[6, 2] = -1, 1
    grey, dark, light, blue, yellow, green, red = colours_of(parts)[:7]
    assert np.ptp(grey) < 1e-3
    assert np.ptp(dark) < 1e-3 and np.ptp(light) < 1e-3
    assert dark.mean() < grey.mean() < light.mean()
    assert blue.argmax() == 2 and yellow.argmin() == 2
    assert green.argmin() == 0 and red.argmax() == 0


def test_constant_tokens_are_grey(views):
    tokens = torch.full((2, *GRID, 8), 3.7)
    figure = draw_tokens(views, tokens)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], views[0])
    np.testing.assert_array_equal(shown[1], views[1])
    for colours in shown[2:]:
        assert colours.shape == (*GRID, 3)
        assert np.ptp(colours) < 1e-3


def test_tokens_are_drawn_below_their_image(views):
    images = [views[i % 2] for i in range(8)]
    tokens = torch.zeros(8, *GRID, 4)
    tokens[7, 2, 3, 0] = 5
    figure = draw_tokens(images, tokens)
    panels = np.array(figure.axes).reshape(4, 6)
    odd = panels[3, 1].images[0].get_array()
    assert np.abs(odd - odd[0, 0]).sum(axis=-1).argmax() == 2 * GRID[1] + 3
    assert not panels[3, 2].axison
    figure.canvas.draw()


def test_attention_maps_of_mean_and_heads(views):
    shares = 0.6 * torch.rand(3, 17).softmax(dim=-1)  # 0.4 on registers
    figure = draw_attention(views[0], shares)
    image, mean, *heads = [axes for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(image.images[0].get_array(), views[0])
    np.testing.assert_allclose(
        mean.images[0].get_array(), shares[:, 1:].mean(0).reshape(4, 4)
    )
    for head, row in zip(heads, shares, strict=True):
        np.testing.assert_allclose(
            head.images[0].get_array(), row[1:].reshape(4, 4)
        )
        assert f'{row[1:].sum():.0%}' in head.texts[-1].get_text()


def test_nearest_patches_of_an_image_in_itself():
    tokens = torch.randn(*GRID, 16, generator=torch.Generator().manual_seed(0))
    where, cosine, mutual = nearest_patches(tokens, 3 * tokens)
    rows, cols = torch.meshgrid(*map(torch.arange, GRID), indexing='ij')
    assert torch.equal(where, torch.stack([rows, cols], dim=-1))
    torch.testing.assert_close(cosine, torch.ones(GRID))
    assert mutual.all()
    # Shifting the tokens by a column shifts the partners.
    where, _, _ = nearest_patches(tokens, tokens.roll(1, dims=1))
    assert torch.equal(where[..., 1], (cols + 1) % GRID[1])
    # The other image has one patch, which is mutual with one of these.
    where, _, mutual = nearest_patches(tokens, tokens[:1, :1])
    assert not where.any() and mutual.sum() == 1


def test_lines_connect_two_images(views):
    tokens = torch.randn(*GRID, 16, generator=torch.Generator().manual_seed(0))
    figure = draw_across(views, tokens, tokens)
    (lines,) = [
        lines
        for lines in figure.axes[0].collections
        if isinstance(lines, LineCollection)
    ]
    assert len(lines.get_segments()) == 24
    for start, end in lines.get_segments():
        np.testing.assert_allclose(end - start, [1.35 * GRID[1], 0])
    assert set(lines.get_linewidths()) == {2.4}
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "24 of 24 are each other's (thick)" in texts


def test_resumed_run_is_one_curve(tmp_path):
    write_log(
        tmp_path / '20260102_000000', [entry(s, 9.0) for s in (5, 10, 15, 20)]
    )
    write_log(
        tmp_path / '20260103_000000', [entry(s, 3.0) for s in (15, 20, 25)]
    )
    log = tmp_path / '20260103_000000' / 'vis_data' / 'scalars.json'
    log.write_text(log.read_text() + '{"step": 30, "lo')  # killed
    curve = read_run(tmp_path)
    assert curve['iteration'] == [5, 10, 15, 20, 25]
    assert curve['loss'] == [9, 9, 3, 3, 3]
    assert [*curve][1:] == ['loss', 'positive_term', 'negative_term']
    # A part that was killed before its first line hides nothing.
    write_log(tmp_path / '20260103_120000', [])
    assert read_run(tmp_path) == curve
    # A new run in the same folder replaces the old one.
    write_log(tmp_path / '20260104_000000', [entry(s, 1.0) for s in (5, 10)])
    assert read_run(tmp_path, ['lr']) == dict(iteration=[5, 10], lr=[1, 1])
    with pytest.raises(SimimError, match='no logged figures accuracy'):
        read_run(tmp_path, ['accuracy'])


def test_a_figure_that_comes_seldom_is_one_curve(tmp_path):
    """The start of a run, and the single value of its last part."""
    share = 'matches/share'
    parts = (
        ('1', [{'step': 0, share: 1.0}, entry(5, 9.0), entry(10, 9.0)]),
        ('2', [entry(10, 3.0), entry(15, 3.0), {'step': 100, share: 2.0}]),
        ('3', [entry(90, 3.0), {'step': 100, share: 3.0}]),
    )
    for day, entries in parts:
        write_log(tmp_path / f'2026010{day}_000000', entries)
    curve = read_run(tmp_path, [share])
    assert curve == {'iteration': [0, 100], share: [1.0, 3.0]}


def test_runs_are_compared_by_common_scalars():
    runs = {
        'one': dict(iteration=[1, 2], loss=[3, 2], positive_term=[1, 1]),
        'two': dict(iteration=[1, 2, 3], loss=[5, 4, 3]),
    }
    figure = draw_runs(runs)
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines[::2]] == [
        [3, 2],
        [5, 4, 3],
    ]
    assert axes.lines[0].get_color() != axes.lines[2].get_color()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ['one', 'two']
    # A grid of panels hides those without a scalar.
    one = {name: [1, 2] for name in ('iteration', *'abcd')}
    figure = draw_runs(dict(one=one))
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2
    with pytest.raises(SimimError, match='no logged figure in common'):
        draw_runs(dict(a=dict(iteration=[1], x=[1]), b=dict(iteration=[1])))


def sheet(width, height, colour):
    figure = new_figure(width, height)
    figure.set_facecolor(colour)
    return figure


def test_png_and_page_contain_every_figure(tmp_path):
    figures = [
        ('a <b>', sheet(1, 0.5, '#0000ff')),
        ('second', sheet(0.5, 1, '#00ff00')),
    ]
    save_figures(figures, tmp_path / 'new' / 'all.png')
    pixels = np.asarray(Image.open(tmp_path / 'new' / 'all.png'))
    assert pixels.shape == (240, 160, 3)
    assert (pixels[40, 80] == [0, 0, 255]).all()
    assert (pixels[160, 40] == [0, 255, 0]).all()
    assert (pixels[160, 120] == 255).all()

    save_figures(figures, tmp_path / 'all.html', 'A & B', 'python x "y"')
    page = (tmp_path / 'all.html').read_text()
    assert 'A &amp; B' in page and 'a &lt;b&gt;' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    found = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'base64,([^"]+)"', page)
    ]
    assert [image.size for image in found] == [(160, 80), (80, 160)]
    assert found[1].getpixel((40, 40)) == (0, 255, 0)
    assert not [*tmp_path.rglob('*.part')]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Save an untrained encoder of 128 channels, 4 heads, 8 x 8 patches."""
    torch.manual_seed(0)
    arch = dict(
        embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512
    )
    backbone = SiameseIMViT(arch=arch, img_size=64, patch_size=8)
    backbone.init_weights()
    file = tmp_path_factory.mktemp('weights') / 'encoder.pth'
    state = {f'backbone.{n}': x for n, x in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), file)
    return file


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    (folder / 'inner').mkdir()
    for i in range(5):
        pixels = rng.integers(0, 256, (70 + i, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'inner' / f'{i}.png')
    (folder / 'notes.txt').write_text('no image')
    return folder


def test_encoder_returns_tokens_and_attention(checkpoint, photos):
    encoder = FrozenEncoder(checkpoint)
    image = np.asarray(Image.open(photos / 'inner' / '0.png'))
    images = [square(image, 64), np.zeros((64, 64, 3), np.uint8)]
    tokens = encoder(images)
    assert tokens.shape == (2, 8, 8, 128)
    assert not torch.equal(tokens[0], tokens[1])
    shares = encoder.cls_attention(images)
    assert shares.shape == (2, 4, 65)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, 4))
    # The attention agrees with the output of the block.
    layer = encoder.backbone.layers[-1].attn
    inputs, outputs = [], []
    layer.qkv.register_forward_hook(lambda m, x, y: inputs.append(y))
    layer.proj.register_forward_pre_hook(lambda m, x: outputs.append(x[0]))
    encoder(images)
    value = inputs[0].unflatten(-1, (3, 4, 32))[:, :, 2]  # (B, 65, A, 32)
    by_hand = torch.einsum('ban,bnac->bac', shares, value).flatten(1)
    torch.testing.assert_close(by_hand, outputs[0][:, 0])


@pytest.mark.parametrize('kind', ['dinov2-registers', 'dinov3', 'beit'])
def test_encoders_of_other_methods(kind, tmp_path):
    """Registers are no patches, and places count in the attention."""
    _, file = saved(kind, tmp_path)
    encoder = FrozenEncoder(file, size=32, num_heads=4)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert encoder([image]).shape == (1, 4, 4, 64)
    shares = encoder.cls_attention([image])
    assert shares.shape == (1, 4, 17)
    layer = encoder.backbone.layers[-1].attn
    values, outputs = [], []
    layer.qkv.register_forward_hook(lambda m, x, y: values.append(y))
    layer.proj.register_forward_pre_hook(lambda m, x: outputs.append(x[0]))
    encoder([image])
    value = values[0].unflatten(-1, (3, 4, 16))[:, :, 2]
    registers = encoder.backbone.num_extra_tokens - 1
    value = torch.cat([value[:, :1], value[:, 1 + registers :]], dim=1)
    by_hand = torch.einsum('ban,bnac->bac', shares, value).flatten(1)
    if registers:
        assert (shares.sum(dim=-1) < 1).all()
    else:
        torch.testing.assert_close(by_hand, outputs[0][:, 0])


def test_no_attention_without_a_cls_token(tmp_path):
    _, file = saved('i-jepa', tmp_path)
    encoder = FrozenEncoder(file, num_heads=4)
    with pytest.raises(SimimError, match='no cls token'):
        encoder.cls_attention([np.zeros((32, 32, 3), np.uint8)])


def test_encoder_for_another_size(checkpoint):
    encoder = FrozenEncoder(checkpoint, size=96)
    assert encoder.grid == (12, 12)
    grey = np.full((96, 96, 3), 128, np.uint8)
    assert encoder([grey]).shape == (1, 12, 12, 128)
    with pytest.raises(SimimError, match='pass --size 104'):
        FrozenEncoder(checkpoint, size=101)


@pytest.mark.parametrize('absolute', [False, True])
def test_relative_bias_for_another_size(tmp_path, absolute):
    """As it is loaded into a backbone of that size."""
    options = dict(relative_bias=True, absolute_positions=absolute)
    vit = our_vit(img_size=32, **options)
    file = tmp_path / 'vit.pth'
    torch.save(vit.state_dict(), file)
    encoder = FrozenEncoder(file, size=48, num_heads=HEADS)
    other = our_vit(img_size=48, **options)
    load_backbone(other, file)
    state = encoder.backbone.state_dict()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)
    side = 48 // other.patch_embed.projection.kernel_size[0]
    image = np.full((48, 48, 3), 128, np.uint8)
    assert encoder([image]).shape[:3] == (1, side, side)


def of_channels(folder, channels):
    """Save an encoder and two pictures of N channels."""
    arch = dict(
        embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64
    )
    backbone = SiameseIMViT(
        arch=arch, img_size=16, patch_size=8, in_channels=channels
    )
    backbone.init_weights()
    state = {f'backbone.{n}': x for n, x in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'encoder.pth')
    (folder / 'bands').mkdir()
    rng = np.random.default_rng(0)
    for k in range(2):
        pixels = rng.integers(0, 256, (channels, 16, 16), np.uint8)
        file = folder / 'bands' / f'{k}.tif'
        tifffile.imwrite(file, pixels, photometric='minisblack')
    return backbone


@pytest.mark.parametrize('channels', [1, 4, 5, 8])
def test_encoders_of_other_channels(tmp_path, channels):
    """They need the statistics of their training."""
    backbone = of_channels(tmp_path, channels).eval()
    file, place = tmp_path / 'encoder.pth', str(tmp_path / 'bands')
    with pytest.raises(SimimError, match=f'images of {channels} channels'):
        FrozenEncoder(file, num_heads=2)
    mean = [10.0 * k for k in range(channels)]
    std = [50.0 + k for k in range(channels)]
    encoder = FrozenEncoder(file, num_heads=2, mean=mean, std=std)
    image = read_image(tmp_path / 'bands/0.tif', channels)
    assert image.shape == (16, 16, channels)
    pixels = torch.tensor((image - mean) / std, dtype=torch.float32)
    with torch.no_grad():
        (tokens,) = backbone(pixels.permute(2, 0, 1)[None])
    found = encoder([image])
    wanted = tokens[:, 1:].unflatten(1, (2, 2))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    words = ['--num-heads', '2', '--mean', *mean, '--std', *std, '--out']
    for picture in (['pca'], ['match'], ['match', '--across'], ['attention']):
        out = tmp_path / f'{len(picture)}{picture[0]}.png'
        main([*map(str, [*picture, file, place, *words, out])])
        assert Image.open(out).size[0] > 200
    config = tmp_path / 'mine.py'
    demo = config_path('siamese_im_vit-micro-p8_demo.py')
    config.write_text(
        f'_base_ = {str(demo)!r}\n'
        f'model = dict(backbone=dict(in_channels={channels}))\n'
    )
    out = str(tmp_path / 'pair.png')
    main(['pair', place, '--config', str(config), '--out', out])
    assert Image.open(out).size[0] > 200


@pytest.mark.parametrize('suffix', ['png', 'html'])
@pytest.mark.parametrize('picture', ['match', 'across', 'pca', 'attention'])
def test_command_draws(checkpoint, photos, tmp_path, picture, suffix, capsys):
    out = tmp_path / f'{picture}.{suffix}'
    words = [picture, str(checkpoint), str(photos)]
    if picture == 'across':
        words[0] = 'match'
        words += ['--across']
    main([*words, '--limit', '2', '--out', str(out)])
    printed = capsys.readouterr().out
    assert '2 of 5 images' in printed
    assert str(out) in printed
    if suffix == 'png':
        assert Image.open(out).size[0] > 500
    else:
        assert out.read_text().count('0.png') > 0


def test_command_draws_pairs_and_curves(photos, tmp_path):
    demo = 'siamese_im_vit-micro-p8_demo.py'
    out = tmp_path / 'pair.html'
    words = ['pair', str(photos), '--config', demo, '--out', str(out)]
    main([*words, '--limit', '3'])
    assert out.read_text().count('<figure>') == 3
    again = tmp_path / 'again.html'
    main([*words[:-1], str(again), '--limit', '3'])
    figures = [re.findall('base64,[^"]+', f.read_text()) for f in (out, again)]
    assert figures[0] == figures[1]  # the seed is the same
    for row in ('target-half', 'target-random'):
        out = tmp_path / f'{row}.html'
        row = f'siamese_im_row-{row}.py'
        main(['pair', str(photos), '--config', row, '--out', str(out)])
        assert '<figure>' in out.read_text()
    for run in ('a/run', 'b/run'):
        write_log(tmp_path / run / '20260102_000000', [entry(5, 1.0)])
    out = tmp_path / 'curves.html'
    runs = [str(tmp_path / run) for run in ('a/run', 'b/run')]
    main(['curves', *runs, '--out', str(out)])
    assert out.read_text().count('<figure>') == 1


def test_levels_are_those_of_the_training(checkpoint, tmp_path, monkeypatch):
    """Images of 12 bits, by the window of a config or of an option."""
    folder = tmp_path / 'deep'
    folder.mkdir()
    levels = np.random.default_rng(0).integers(1024, 3072, (80, 80))
    Image.fromarray(levels.astype(np.int32)).save(folder / 'a.tif')
    shades, seen = (levels - 1024) / 2048 * 255, []

    def shown(image):
        seen.append(image)
        return image

    monkeypatch.setattr(commands, 'as_shown', shown)
    config = Config.fromfile(config_path('siamese_im_vit-micro-p8_demo.py'))
    config.train_dataloader.dataset.pipeline[0].window = (1024, 3072)
    config.dump(tmp_path / 'mine.py')
    given, out = str(tmp_path / 'mine.py'), str(tmp_path / 'out.png')
    main(['pair', str(folder), '--config', given, '--out', out])
    assert np.abs(seen[0][..., 0] - shades).max() < 1
    seen.clear()
    words = [str(checkpoint), str(folder), '--window', '1024', '3072']
    for picture in ('pca', 'attention', 'match'):
        main([picture, *words, '--out', out])
    assert min(np.ptp(image) for image in seen) > 200


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['pca', '{file}', '{photos}', '--window', '9', '3'], 'higher level'),
        (['pca', '{file}', '{photos}', '--out', 'x.jpg'], 'use --out x.png'),
        (['pca', '{file}', '/none'], 'no image or folder at /none'),
        (['pca', '{file}', '{empty}'], 'There is no image'),
        (['pca', '{file}', '{text}'], 'notes.txt (no image format'),
        (['pca', '{file}', '{photos}', '--limit', '65'], '1 to 64'),
        (['pca', '{file}', '{photos}', '--size', '60'], 'pass --size 64'),
        (['pca', '{file}', '{photos}', '--size', '0'], 'pass --size 8'),
        (['pca', '{file}', '{photos}', '--num-heads', '3'], '--num-heads'),
        (['pca', '{file}', '{photos}', '--num-heads', '0'], 'one attention'),
        (['pca', '{file}', '{photos}', '--std', '0', '0', '0'], 'std above'),
        (['pca', '{file}', '{photos}', '--std', '-1', '2', '2'], 'std above'),
        (['pca', '{file}', '{photos}', '--mean', *['nan'] * 3], 'finite'),
        (['pca', '{text}', '{photos}'], 'Cannot read the checkpoint'),
        (['match', '{file}', '{one}', '--across'], 'need pairs of images'),
        (['pair', '{photos}', '--config', KNN], 'name a pretraining config'),
        (
            ['pair', '{photos}', '--config', 'siamese_im_rival-msn.py'],
            'name a pretraining config',
        ),
        (['curves', '{empty}'], 'no logged figures loss'),
        (['curves', '{empty}', '{empty}'], 'named twice'),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    checkpoint, photos, tmp_path, monkeypatch, capsys, words, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    places = dict(
        file=checkpoint,
        photos=photos,
        empty=tmp_path / 'empty',
        text=photos / 'notes.txt',
        one=photos / 'inner' / '0.png',
    )
    with pytest.raises(SystemExit) as ended:
        main([word.format(**places) for word in words])
    assert ended.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ') and '\n' not in error
    assert sentence in error
    assert [*tmp_path.iterdir()] == [tmp_path / 'empty']


def test_unknown_number_of_heads_is_asked_for(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    short = {n: x for n, x in state.items() if '.layers.3.' not in n}
    torch.save(dict(state_dict=short), tmp_path / 'three_blocks.pth')
    with pytest.raises(CheckpointError, match='pass --num-heads'):
        FrozenEncoder(tmp_path / 'three_blocks.pth')
    encoder = FrozenEncoder(tmp_path / 'three_blocks.pth', num_heads=4)
    assert len(encoder.backbone.layers) == 3


def test_images_are_taken_evenly(photos, capsys):
    names = [path.name for path in find_images([photos], 3)]
    assert names == ['0.png', '2.png', '4.png']
    single = photos / 'inner' / '1.png'
    assert find_images([single], 3) == [single]
    assert len(find_images([photos], 5, even=True)) == 4


@pytest.mark.shared
@pytest.mark.parametrize('picture', ['pair', 'match', 'pca', 'attention'])
def test_photographs(checkpoint, shared, tmp_path, picture):
    images = str(shared / 'data' / 'imagenet_sample' / 'images')
    words = [picture, str(checkpoint), images]
    if picture == 'pair':
        demo = 'siamese_im_vit-micro-p8_demo.py'
        words = [picture, images, '--config', demo]
    main([*words, '--limit', '2', '--out', str(tmp_path / 'x.png')])
    drawn = Image.open(tmp_path / 'x.png').convert('RGB')
    assert drawn.size[0] > 500
    # A photograph has many colours; strokes and text have few.
    assert len(drawn.getcolors(drawn.width * drawn.height)) > 1000


def test_the_grid_of_a_small_target(views):
    """Equal crops: both grids have the same outline in the online view."""
    crop = View.of((0, 0, 32, 48), False)
    mask = np.zeros(GRID, bool)
    given = views[0], views, PairGeometry(crop, crop), mask, GRID
    figure = draw_pair(*given, target_grid=(2, 3))
    *_, target, predicted = figure.axes[:4]
    (lines,) = (c for c in target.collections if hasattr(c, 'get_segments'))
    assert len(lines.get_segments()) == 3 + 4
    (lines,) = (c for c in predicted.collections if hasattr(c, 'get_segments'))
    points = np.concatenate(lines.get_segments())
    assert points.min(axis=0) == pytest.approx([-0.5, -0.5])
    assert points.max(axis=0) == pytest.approx([5.5, 3.5])
