"""Read pickles by a closed list of opcodes and names.

:class:`Pickle` builds plain containers, tensors, arrays of numbers and the
objects that MMEngine stores beside them. A name in a file is looked up in a
table. No entry of the table runs code that the file chooses, and a file cannot
change an entry. Objects of other classes are left out: :class:`UnknownObject`
stands in their place, and nothing of theirs is imported or called. A call of
an unknown function of Python, torch or NumPy is refused. :class:`Limits`
bounds the cost by the size of the file.

``torch.load(weights_only=True)`` does not replace this reader:

- It accepts more, and its list cannot be narrowed. A file may call
  ``torch.Tensor(n)``, which returns uninitialised memory, or encode text by
  any codec. The list belongs to the process: importing mmpretrain extends it.
- It reads less: neither pickle protocols 4 and 5 nor Detectron2's pickles.
- It is not safe in all versions that we support. Before torch 2.6 a file can
  run code (CVE-2025-32434), before 2.10 corrupt memory (CVE-2026-24747).
- It has no limits: 9 bytes may take 4 GB, and nested keys end the process.
"""

from __future__ import annotations

import argparse
import codecs
import pickletools
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .limits import CheckpointError, Limits

Storage = Callable[[torch.dtype, str, int], torch.Tensor]


class Pickle:
    """A pickle in a file.

    Args:
        file (IO[bytes]): positioned at a pickle, which is read to its end.
        limits (Limits): of the file.
        storage (Callable, optional): returns the one-dimensional tensor of
            a dtype, a key and a number of elements. Other tensors are views
            of it.
        leaves (bool): leave objects of unknown classes out, and do not refuse
            them. Defaults to True.
    """

    def __init__(
        self,
        file: IO[bytes],
        limits: Limits,
        storage: Storage | None = None,
        leaves: bool = True,
    ) -> None:
        self._file = file
        self._limits = limits
        self._storage = storage
        self._leaves = leaves
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the content.

        Raises:
            CheckpointError: if it holds more than the tables allow, or more
                than the limits.
        """
        name = ''
        while name != 'STOP':
            self._limits.spend('steps', 1)
            opcode = _BY_CODE.get(self._file.read(1))
            if opcode is None:
                raise CheckpointError('its pickle is cut off or broken')
            name = opcode.name
            argument = opcode.arg and self._argument(opcode)
            if name in _PLAIN:
                self._stack.append(argument)
            elif name in _EMPTY:
                self._stack.append(_EMPTY[name]())
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _OPCODES:
                _OPCODES[name](self, argument)
            elif name not in ('PROTO', 'FRAME', 'STOP'):
                raise CheckpointError(f'{name} may run code')
        content = self._stack.pop()
        self._limits.check_nesting(content)
        return content

    def _argument(self, opcode: Any) -> Any:
        if opcode.name != 'STRING':
            return opcode.arg.reader(self._file)
        # pickletools reads ASCII, and Python 2 wrote the bytes of arrays.
        text = pickletools.read_stringnl(self._file, decode=False)
        return codecs.escape_decode(text)[0].decode('latin1')

    # Opcodes: each takes the argument that follows it in the file.

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_mark(self, _: None) -> None:
        self._since_mark()

    def _pop(self, _: None) -> None:
        self._stack.pop()

    def _dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _list(self, _: None) -> None:
        self._stack.append(self._since_mark())

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: None) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _: None) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _: None) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _dict(self, _: None) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], UnknownObject):
            _check(self._stack[-1], list).extend(items)

    def _setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: None) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, UnknownObject):
            return
        _check(target, dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _additems(self, _: None) -> None:
        items, target = self._since_mark(), self._stack[-1]
        if not isinstance(target, UnknownObject):
            _check(target, set).update(map(_key, items))

    def _frozenset(self, _: None) -> None:
        self._stack.append(frozenset(map(_key, self._since_mark())))

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _global(self, name: str) -> None:
        self._stack.append(self._find(*name.split(' ', 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        found = self._find(_check(module, str), _check(name, str))
        self._stack.append(found)

    def _find(self, module: str, name: str) -> Any:
        """Return the table's entry for a name, or an `UnknownObject`."""
        _check_length(module, name)
        # NumPy 2 and Python 3 renamed these modules.
        full = f'{module}.{name}'.replace('numpy._core.', 'numpy.core.')
        full = re.sub('^builtins', '__builtin__', full)
        if full in _NAMES:
            return _NAMES[full]
        owner, _, method = full.rpartition('.')
        if owner == _HISTORY and not method.startswith('_'):
            return method  # nothing calls it; other protocols use getattr
        if not self._leaves:
            raise CheckpointError(f'{full[:80]} may run code')
        return UnknownObject(full)

    def _reduce(self, _: None) -> None:
        """Call a builder by its entry in the table."""
        arguments, name = self._stack.pop(), self._stack.pop()
        if isinstance(name, UnknownObject):
            self._stack.append(name.called())
            return
        if not isinstance(name, _Name):
            raise CheckpointError(f'a call of a {_kind(name)} may run code')
        built = name.build(self, *_check(arguments, tuple))
        self._stack.append(built)

    def _new(self, _: None) -> None:
        """Make an object of a class, which is left out if it is unknown."""
        if isinstance(self._stack[-2], UnknownObject):
            self._stack.pop()
        else:
            self._reduce(None)

    def _new_named(self, _: None) -> None:
        """Make an object with arguments by name, which is left out."""
        del self._stack[-2:]
        _check(self._stack[-1], UnknownObject)

    def _build(self, _: None) -> None:
        """Give an object its state, if it is of a class that has one."""
        state, built = self._stack.pop(), self._stack[-1]
        if isinstance(built, UnknownObject):
            return
        for kind, give in _STATES.items():
            if isinstance(built, kind):
                give(self, built, state)
                return
        raise CheckpointError(f'the state of a {_kind(built)} may run code')

    def _persistent(self, _: None) -> None:
        """Push a storage as a one-dimensional tensor."""
        saved = _check(self._stack.pop(), tuple)
        if saved[:1] == ('module',):  # a class and its source, old format
            self._stack.append(_check(saved[1], UnknownObject))
            return
        # Only the old format has a part: the storage is a view of another.
        kind, dtype, key, _, count, *part = saved
        if kind != 'storage' or self._storage is None or any(part):
            raise CheckpointError('a reference to another object may run code')
        _check(dtype, torch.dtype), _check(key, str), _check(count, int)
        self._stack.append(self._storage(dtype, key, count))

    # Builders: each takes the arguments that the file gives.

    def tensor(
        self,
        storage: torch.Tensor,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
        hooks: object = None,
        bits: object = None,
    ) -> torch.Tensor:
        """Return a tensor without its hooks."""
        if bits:
            raise CheckpointError('a tensor is conjugate or negative')
        _check(storage, torch.Tensor)
        numbers = [offset, *_check(size, tuple), *_check(stride, tuple)]
        if any(_check(number, int) < 0 for number in numbers):
            raise CheckpointError('a tensor has a negative size')
        reach = sum(
            (n - 1) * s for n, s in zip(size, stride, strict=True) if n
        )
        count = prod(size)
        held = storage.numel()
        if count and (count > held or offset + reach >= held):
            raise CheckpointError('a tensor is larger than its storage')
        self._limits.spend('tensors', count * storage.element_size())
        view = storage.as_strided(size, stride, offset)
        return view.requires_grad_(requires_grad is True)

    def parameter(
        self, data: torch.Tensor, requires_grad: bool, hooks: object = None
    ) -> torch.nn.Parameter:
        """Return a parameter without its hooks."""
        data = _check(data, torch.Tensor)
        return torch.nn.Parameter(data, requires_grad is True)

    def array(self, *_: object) -> _Array:
        """Return an empty array, which its state will fill."""
        return np.ndarray.__new__(_Array, 0)

    def buffer(
        self, data: bytes, dtype: _DType, shape: Any, order: Any, *_: object
    ) -> np.ndarray:
        """Return a contiguous array."""
        self._limits.spend('copies', len(_check(data, bytes, bytearray)))
        shape = tuple(_check(n, int) for n in _check(shape, tuple, list))
        numbers = np.frombuffer(data, _check(dtype, _DType).numpy)
        return numbers.reshape(shape, order=_check(order, str))

    def scalar(self, dtype: _DType, data: bytes | str) -> Any:
        """Return a NumPy number."""
        return np.frombuffer(self._bytes(data), _check(dtype, _DType).numpy)[0]

    def _bytes(self, data: bytes | str) -> bytes:
        """Return bytes, which Python 2 wrote as text."""
        self._limits.spend('copies', len(_check(data, bytes, str)))
        return data.encode('latin1') if isinstance(data, str) else data

    def counter(self, counts: dict) -> Counter:
        """Return a schedule's steps."""
        self._limits.spend('copies', len(_check(counts, dict)))
        numbers = {key: _check(n, int) for key, n in counts.items()}
        return Counter(numbers)

    def encode(self, text: str, encoding: str) -> bytes:
        """Return bytes that a pickle of protocol 2 holds as text."""
        if encoding != 'latin1':
            named = repr(_check(encoding, str)[:20])
            raise CheckpointError(f'encoding by {named} may run code')
        return self._bytes(_check(text, str))

    def method(self, owner: object, name: str) -> str | UnknownObject:
        """Return the name of a HistoryBuffer method, which nothing calls."""
        if isinstance(owner, UnknownObject):
            _check_length(owner.name, _check(name, str))
            return UnknownObject(f'{owner.name}.{name}').called()
        known = isinstance(owner, _Name) and owner.build is Pickle.history
        if not known or _check(name, str).startswith('_'):
            raise CheckpointError('getattr may run code')
        return name

    def history(self, *arguments: Any) -> _History:
        """Return the logged values of a scalar, or one for a state to fill."""
        history = object.__new__(_History)
        if arguments:
            history.fill(*arguments)
        return history

    def namespace(self) -> argparse.Namespace:
        """Return the arguments of a command, which its state will fill."""
        return argparse.Namespace()

    def ordered(self, items: Sequence[Any] = ()) -> OrderedDict:
        """Return a dict of key and value pairs."""
        self._limits.spend('copies', len(_check(items, list, tuple)))
        pairs = [_check(item, list, tuple) for item in items]
        return OrderedDict((_key(key), value) for key, value in pairs)

    def make_set(self, items: Sequence[Any] = ()) -> set:
        """Return a set of plain values."""
        self._limits.spend('copies', len(_check(items, list, tuple)))
        return {_key(item) for item in items}

    def no_bytes(self) -> bytes:
        """Return no bytes; a pickle of protocol 2 holds others as text."""
        return b''

    def make_bytearray(self, data: Any = b'', encoding: str = '') -> bytearray:
        """Return bytes that can change."""
        return bytearray(self._bytes(data))

    def make_complex(self, real: float, imaginary: float) -> complex:
        """Return a complex number."""
        return complex(_check(real, float), _check(imaginary, float))

    def size(self, sizes: Sequence[int]) -> torch.Size:
        """Return the shape of a tensor."""
        self._limits.spend('copies', len(_check(sizes, list, tuple)))
        return torch.Size([_check(n, int) for n in sizes])

    def device(self, kind: str, index: int = 0) -> torch.device:
        """Return the device of a tensor."""
        if kind == 'cpu':
            return torch.device('cpu')
        return torch.device(_check(kind, str), _check(index, int))

    def dtype(self, code: str, *_: object) -> _DType:
        """Return the dtype of an array of numbers."""
        return _DType(code)

    def nothing(self, *_: object) -> Any:
        """Refuse to call a class that stands as an argument only."""
        raise CheckpointError('ndarray() may run code')

    # States.

    def _fill_array(self, array: _Array, state: Any) -> None:
        version, shape, dtype, fortran, data = _check(state, tuple)
        dtype = _check(dtype, _DType).numpy
        data = self._bytes(data)
        shape = tuple(_check(n, int) for n in _check(shape, tuple))
        array._fill((version, shape, dtype, fortran, data))

    def _set_byte_order(self, dtype: _DType, state: Any) -> None:
        order = _check(_check(state, tuple)[1], str)
        dtype.numpy = dtype.numpy.newbyteorder(order)

    def _fill_history(self, history: _History, state: Any) -> None:
        names = ('_log_history', '_count_history', 'max_length')
        history.fill(*(_check(state, dict)[name] for name in names))

    def _fill_namespace(self, space: argparse.Namespace, state: Any) -> None:
        self._limits.spend('copies', len(_check(state, dict)))
        vars(space).update({_check(k, str): v for k, v in state.items()})

    def _keep_metadata(self, target: OrderedDict, state: Any) -> None:
        """Keep the versions of modules, which torch stores so."""
        if '_metadata' in _check(state, dict):
            metadata = _check(state['_metadata'], dict)
            target._metadata = metadata  # type: ignore[attr-defined]


def _check_length(*names: str) -> None:
    """Refuse long names, which a file could join again and again."""
    if sum(map(len, names)) > 500:
        raise CheckpointError('the name of a class is longer than 500')


def _check(value: Any, *kinds: type) -> Any:
    """Return a value of one of the kinds, and refuse any other."""
    if isinstance(value, kinds):
        return value
    raise CheckpointError(
        f'a {_kind(value)} stands for a {kinds[0].__name__.lstrip("_")}'
    )


def _key(key: Any) -> Any:
    """Return a key whose hash is cheap; nested ones end the process."""
    return (
        None
        if key is None
        else _check(key, str, int, float, bytes, UnknownObject)
    )


def _kind(value: Any) -> str:
    """Name the type of a value. Its text may be endless."""
    return type(value).__name__.lstrip('_')


class _Name:
    """A name in a file that it may call.

    Args:
        build (Callable): a method of :class:`Pickle`.
    """

    __slots__ = ('build',)

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build


class UnknownObject:
    """Stands for an object of an unknown class, and keeps its class name.

    It stands for a class, for a call of it and for the object, and takes any
    arguments, state and items without a look at them.

    Args:
        name (str): of the class or the function in the file.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def called(self) -> UnknownObject:
        """Return what stands for the result of a call.

        Raises:
            CheckpointError: for a function of Python, torch or NumPy that no
                ordinary file calls.
        """
        library = self.name.partition('.')[0]
        known = library in _LEFT or self.name in _LEFT
        if library in _LIBRARIES and not known:
            raise CheckpointError(f'{self.name[:80]} may run code')
        return self

    def __reduce__(self) -> Any:
        return str, (f'<{self.name}>',)


class _DType:
    """A dtype of numbers. A file may set its byte order only."""

    def __init__(self, code: object) -> None:
        # A code that is no string can place fields at any address.
        self.numpy = np.dtype(code if isinstance(code, str) else object)
        if self.numpy.kind not in 'biuf':
            named = repr(code[:20]) if isinstance(code, str) else 'fields'
            raise CheckpointError(f'an array of {named} may hold objects')

    def __reduce__(self) -> Any:
        return self.numpy.__reduce__()


class _Array(np.ndarray):
    """An array that a file fills. It is saved as a plain array.

    A file that called ``ndarray`` could pass bytes as addresses of objects.
    """

    def _fill(self, state: tuple) -> None:
        super().__setstate__(state)

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


class _History(HistoryBuffer):
    """The logged values of a scalar. It is saved as a plain HistoryBuffer.

    HistoryBuffer would register a file's statistics for the whole process.
    """

    def fill(self, values: Any, counts: Any, length: Any) -> None:
        """Set the values, the number of each and the most to keep."""
        _check(values, np.ndarray), _check(counts, np.ndarray)
        super().__init__(values, counts, _check(length, int))

    def __reduce__(self) -> Any:
        return HistoryBuffer, (*self.data, self.max_length)


_BY_CODE: dict[bytes, Any] = {
    opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes
}
_PLAIN = {
    'INT',
    'BININT',
    'BININT1',
    'BININT2',
    'LONG',
    'LONG1',
    'STRING',
    'BINSTRING',
    'SHORT_BINSTRING',
    'BINBYTES',
    'SHORT_BINBYTES',
    'BINBYTES8',
    'BYTEARRAY8',
    'UNICODE',
    'SHORT_BINUNICODE',
    'BINUNICODE',
    'BINUNICODE8',
    'FLOAT',
    'BINFLOAT',
}
"""Opcodes that push the argument that follows them."""

_CONSTANTS = dict(NONE=None, NEWTRUE=True, NEWFALSE=False)
_EMPTY: dict[str, Callable[[], Any]] = dict(
    EMPTY_LIST=list, EMPTY_TUPLE=tuple, EMPTY_DICT=dict, EMPTY_SET=set
)
_OPCODES: dict[str, Callable[[Pickle, Any], None]] = dict(
    MARK=Pickle._mark,
    POP_MARK=Pickle._pop_mark,
    POP=Pickle._pop,
    DUP=Pickle._dup,
    LIST=Pickle._list,
    TUPLE=Pickle._tuple,
    TUPLE1=Pickle._tuple1,
    TUPLE2=Pickle._tuple2,
    TUPLE3=Pickle._tuple3,
    DICT=Pickle._dict,
    APPEND=Pickle._append,
    APPENDS=Pickle._appends,
    SETITEM=Pickle._setitem,
    SETITEMS=Pickle._setitems,
    ADDITEMS=Pickle._additems,
    FROZENSET=Pickle._frozenset,
    PUT=Pickle._put,
    BINPUT=Pickle._put,
    LONG_BINPUT=Pickle._put,
    MEMOIZE=Pickle._memoize,
    GET=Pickle._get,
    BINGET=Pickle._get,
    LONG_BINGET=Pickle._get,
    GLOBAL=Pickle._global,
    STACK_GLOBAL=Pickle._stack_global,
    REDUCE=Pickle._reduce,
    NEWOBJ=Pickle._new,
    NEWOBJ_EX=Pickle._new_named,
    BUILD=Pickle._build,
    BINPERSID=Pickle._persistent,
)

_STATES: dict[type, Callable[[Pickle, Any, Any], None]] = {
    _Array: Pickle._fill_array,
    _DType: Pickle._set_byte_order,
    _History: Pickle._fill_history,
    argparse.Namespace: Pickle._fill_namespace,
    OrderedDict: Pickle._keep_metadata,
}

_DTYPES = {
    'Bool': torch.bool,
    'Byte': torch.uint8,
    'Char': torch.int8,
    'Short': torch.int16,
    'Int': torch.int32,
    'Long': torch.int64,
    'BFloat16': torch.bfloat16,
    'Half': torch.float16,
    'Float': torch.float32,
    'Double': torch.float64,
    'ComplexFloat': torch.complex64,
    'ComplexDouble': torch.complex128,
}
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_CALLED: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': Pickle.tensor,
    'torch._utils._rebuild_tensor_v2': Pickle.tensor,
    'torch._utils._rebuild_parameter': Pickle.parameter,
    'torch.Size': Pickle.size,
    'torch.device': Pickle.device,
    'numpy.dtype': Pickle.dtype,
    'numpy.ndarray': Pickle.nothing,
    'numpy.core.multiarray._reconstruct': Pickle.array,
    'numpy.core.multiarray.scalar': Pickle.scalar,
    'numpy.core.numeric._frombuffer': Pickle.buffer,
    'collections.Counter': Pickle.counter,
    'collections.OrderedDict': Pickle.ordered,
    'argparse.Namespace': Pickle.namespace,
    _HISTORY: Pickle.history,
    '_codecs.encode': Pickle.encode,
    '__builtin__.bytearray': Pickle.make_bytearray,
    '__builtin__.bytes': Pickle.no_bytes,
    '__builtin__.complex': Pickle.make_complex,
    '__builtin__.set': Pickle.make_set,
    '__builtin__.getattr': Pickle.method,
}
_LIBRARIES = {
    *sys.stdlib_module_names,
    *('__builtin__', 'commands', 'copy_reg', 'numpy', 'torch'),
}
"""Libraries whose functions a hostile file calls, also by old names."""
_LEFT = {
    *(
        'collections.defaultdict',
        'collections.deque',
        'copy_reg._reconstructor',
    ),
    *('copyreg._reconstructor', 'datetime', 'decimal', 'enum', 'fractions'),
    *('functools.partial', 'ipaddress', 'pathlib', 're._compile'),
    *('types.SimpleNamespace', 'typing', 'uuid', 'zoneinfo'),
    *(f'__builtin__.{kind.__name__}' for kind in (bool, dict, float, int)),
    *(f'__builtin__.{kind.__name__}' for kind in (list, object, str, tuple)),
    '__builtin__.unicode',
}
"""Modules and functions of those libraries whose calls are left out."""
# The names in files of mmengine, the released code and Detectron2.
_NAMES: dict[str, Any] = {
    **{str(dtype): dtype for dtype in _DTYPES.values()},
    **{f'torch.{name}Storage': dtype for name, dtype in _DTYPES.items()},
    **{name: _Name(build) for name, build in _CALLED.items()},
}
