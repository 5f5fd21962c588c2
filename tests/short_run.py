"""A run of two steps whose files the inferencers of a library read."""

from pathlib import Path

from mmengine.config import Config

from simim_plugin.commands import train


def train_two_steps(folder: Path, base: str, **settings) -> Path:
    """Train in ``folder``, and name weights there that are gone since.

    Args:
        folder (Path): of the run ``work``.
        base (str): path of the config to inherit.
        **settings: that it gets.
    """
    settings = dict(settings, train_cfg=dict(max_iters=2))
    lines = [f'{name} = {value!r}' for name, value in settings.items()]
    (folder / 'mine.py').write_text('\n'.join([f'_base_ = {base!r}', *lines]))
    mine, work = str(folder / 'mine.py'), str(folder / 'work')
    train.main([mine, '--no-validate', '--work-dir', work])
    written = Config.fromfile(folder / 'work/config.py')
    written.model.backbone.pretrained = str(folder / 'gone.pth')
    written.dump(folder / 'work/config.py')
    return folder


def files_of(run: Path) -> tuple[str, str, list[str]]:
    """Return the config, the checkpoint and the images of a run."""
    images = sorted((run / 'data/images').iterdir())
    work = run / 'work'
    return (
        str(work / 'config.py'),
        str(work / 'iter_2.pth'),
        [str(image) for image in images],
    )
