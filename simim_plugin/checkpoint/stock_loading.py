"""Replace the functions by which MMEngine reads files from outside.

MMEngine unpickles checkpoints (``load_from``, ``init_cfg`` of type
'Pretrained', inferencers, ``init_detector``) and annotations in a pickle, and
YAML may name any function. After :func:`replace_stock_loading` the whole
process reads them by allow-lists, for the models of all libraries. A model
with parts of this package is filled completely or not at all, where MMEngine
would load the tensors that happen to fit.
"""

from __future__ import annotations

from collections import OrderedDict
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

import torch
import yaml
from mmengine import runner
from mmengine.dist import barrier, get_local_rank
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.logging import print_log
from mmengine.model import weight_init
from mmengine.runner import CheckpointLoader, checkpoint
from torch import nn

from .limits import CheckpointError
from .loading import check_fit, load_weights, refuse_init_cfg
from .reading import inside_object, read_checkpoint
from .torch_files import load_pickle
from .unpickling import UnknownObject

_REMOTE = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://')
_stock_load_state_dict = checkpoint.load_state_dict
_stock_initialise = weight_init.PretrainedInit.__call__


def replace_stock_loading() -> None:
    """Replace MMEngine's functions; a second call changes nothing."""
    for prefixes, loader in (
        ('', load_from_local),
        (('http://', 'https://'), load_from_http),
        (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
        (_REMOTE, load_from_remote),
    ):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)
    checkpoint.load_from_http = load_from_http  # other schemes call it
    for module in (checkpoint, runner):
        module.load_state_dict = load_state_dict
    weight_init.PretrainedInit.__call__ = initialise
    register_handler(['pkl', 'pickle'])(SafePickleHandler)
    register_handler(['yaml', 'yml'])(SafeYamlHandler)


class _Metadata(OrderedDict):
    """The ``_metadata`` of a state dict, and the file that it is from.

    MMEngine copies a state dict before it loads it, and keeps only this.
    """

    file: str
    content: dict[str, Any]


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Read a checkpoint onto the CPU, whatever the ``map_location``.

    The config in the file is left out: an inferencer without a config would
    run it.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    content = read_checkpoint(Path(filename).expanduser())
    hub = content.get('message_hub')
    infos = hub.get('runtime_info') if isinstance(hub, dict) else None
    for entries in (content.get('meta'), infos):
        if isinstance(entries, dict):
            entries.pop('cfg', None)
    state = content.get('state_dict', content)
    if isinstance(state, UnknownObject):
        raise inside_object(filename, state, 'state_dict')
    if isinstance(state, dict):
        metadata = _Metadata(getattr(state, '_metadata', {}))
        metadata.file, metadata.content = filename, content
        own = OrderedDict(state)
        own._metadata = metadata  # type: ignore[attr-defined]
        whole = 'state_dict' not in content
        return own if whole else dict(content, state_dict=own)
    return content


def load_from_http(
    filename: str,
    map_location: Any = None,
    model_dir: str | None = None,
    progress: bool = True,
) -> dict:
    """Download a checkpoint once, and read it onto the CPU.

    Raises:
        CheckpointError: if it cannot be downloaded or read, or the file of
            its name in the cache is from another address.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    name = Path(urlparse(filename).path).name
    if name in ('', '..'):
        raise CheckpointError(
            f'The address {filename} names no file; correct it.'
        )
    file, source = folder / name, folder / f'{name}.url'
    fresh = get_local_rank() == 0 and not file.is_file()
    if fresh:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                filename, str(file), progress=progress
            )
        except (OSError, HTTPException, ValueError) as error:
            raise CheckpointError(
                f'Cannot download the checkpoint {filename} ({error}); '
                'download it elsewhere, and pass the file.'
            ) from error
        source.write_text(filename)
    barrier()
    known = source.read_text() if source.is_file() else filename
    if known != filename:
        raise CheckpointError(
            f'The file {file} is from {known} and not from {filename}; move '
            'it away, or pass the path of a file.'
        )
    if not fresh:
        print_log(f'Reads {file}, as downloaded before.', 'current')
    try:
        return load_from_local(str(file))
    except CheckpointError:
        if fresh:  # it may be cut off
            file.unlink()
            source.unlink()
        raise


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Read a checkpoint by its name in MMEngine's list.

    Raises:
        CheckpointError: if the name is unknown, or as for the others.
    """
    name = filename.partition('://')[2]
    name = checkpoint.get_deprecated_model_names().get(name, name)
    known = checkpoint.get_external_models()
    if name not in known:
        raise CheckpointError(
            f'MMEngine knows no checkpoint {filename}; download the file, and '
            'pass its path.'
        )
    if known[name].startswith(('http://', 'https://')):
        return load_from_http(known[name])
    return load_from_local(
        str(Path(checkpoint._get_mmengine_home(), known[name]))
    )


def load_from_remote(filename: str, map_location: Any = None) -> dict:
    """Refuse a storage whose files MMEngine would unpickle.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f'The checkpoint {filename} is on a remote storage, from which it '
        'cannot be read safely; copy it to this machine, and pass the file.'
    )


def load_state_dict(
    module: nn.Module,
    state_dict: dict,
    strict: bool = False,
    logger: Any = None,
) -> None:
    """Fill a model as MMEngine does, and one with our parts completely.

    Raises:
        CheckpointError: if the model has parts of this package and a tensor
            is missing, mis-shaped or unknown.
    """
    model = getattr(module, 'module', module)  # of a wrapper
    if not any(map(_is_ours, model.modules())):
        _stock_load_state_dict(module, state_dict, strict, logger)
        return
    source = getattr(state_dict, '_metadata', None)
    file, content = 'that is given', dict(state_dict=state_dict)
    if isinstance(source, _Metadata):
        file, content = source.file, source.content
    if _is_ours(getattr(model, 'backbone', None)):
        load_weights(model, file, content)
    else:
        check_fit(model.state_dict(), state_dict, file)
        model.load_state_dict(state_dict)


def initialise(init: weight_init.PretrainedInit, module: nn.Module) -> None:
    """Load an ``init_cfg`` of type 'Pretrained', but not into our parts.

    Raises:
        SimimError: for a part of this package.
    """
    if _is_ours(module):
        refuse_init_cfg(type(module).__name__, dict(type='Pretrained'))
    _stock_initialise(init, module)


def _is_ours(module: object) -> bool:
    return type(module).__module__.startswith('simim_plugin.')


class SafePickleHandler(PickleHandler):
    """MMEngine's reader of annotations that are a pickle, by allow-list."""

    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        """Return the content of a pickle.

        Raises:
            CheckpointError: if it is broken or may run code.
        """
        try:
            return load_pickle(file, leaves=False)
        except Exception as error:
            raise CheckpointError(
                'A file of annotations is a broken pickle, or holds objects '
                f'that may run code ({error}); convert it to JSON.'
            ) from error


class SafeYamlHandler(YamlHandler):
    """MMEngine's reader of YAML, for plain values only."""

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        """Return the content of a YAML file."""
        loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
        return yaml.load(file, **{**kwargs, 'Loader': loader})
