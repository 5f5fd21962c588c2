"""Small files that cost much: each would hang or end a plain reader."""

import io
import pickle
import random
import sys
import zipfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C


def shared_tuples(levels: int = 60) -> bytes:
    """Return opcodes of a tuple that holds 2 ** levels tuples."""
    return b')' + b'2\x86' * levels  # DUP, TUPLE2


def shared_dicts(levels: int = 60) -> bytes:
    """Return opcodes of a dict that holds 2 ** levels dicts."""
    level = b'q\x00}K\x00h\x00sK\x01h\x00s'  # BINPUT, EMPTY_DICT, SETITEM
    return b'}' + level * levels


def call(name: str, arguments: bytes) -> bytes:
    """Return opcodes of a call."""
    module, _, name = name.rpartition('.')
    return f'c{module}\n{name}\n'.encode() + arguments + b'R'


def nested(depth: int) -> bytes:
    """Return opcodes of tuples inside each other."""
    return b')' + b'\x85' * depth


def int4(number: int) -> bytes:
    return number.to_bytes(4, 'little')


TEXT = b'X' + int4(100_000) + bytes(100_000)
PAYLOADS = {
    'deep key': b'}' + nested(200_000) + b'K\x01s',
    'deep value': nested(200_000),
    'deep item of a set': b'\x8f(' + nested(200_000) + b'\x90',
    'tower as a key': b'}' + shared_tuples() + b'K\x01s',
    'tower as a value': b'}K\x01' + shared_tuples() + b's',
    'tower of dicts': shared_dicts(),
    'tower as arguments': call('_codecs.encode', shared_tuples() + b'\x85'),
    'tower as a dtype': call('numpy.dtype', shared_tuples() + b'\x85'),
    'tower as a name': shared_tuples() + b'\x8c\x01x\x93',
    'tower as a call': shared_tuples() + b')R',
    'tower as a state': call('argparse.Namespace', b')')
    + shared_tuples()
    + b'b',
    'tower as a reference': shared_tuples() + b'Q',
    'tower of counts': call('collections.Counter', shared_dicts() + b'\x85'),
    'list in itself': b']q\x00h\x00a',
    'memo index': b'Nr' + int4(2**32 - 1),
    'bytearray of a size': call(
        '__builtin__.bytearray', b'J' + int4(2**31 - 1) + b'\x85'
    ),
    'bytes of a size': call(
        '__builtin__.bytes', b'J' + int4(2**31 - 1) + b'\x85'
    ),
    'claimed text': b'X' + int4(2**32 - 1) + b'x',
    'claimed bytes': b'\x8e' + (2**40).to_bytes(8, 'little') + b'x',
    'claimed bytearray': b'\x96' + (2**40).to_bytes(8, 'little') + b'x',
    'claimed frame': b'\x95' + (2**62).to_bytes(8, 'little') + b'N0]',
    'long number as a key': b'}\x8b' + int4(99_999) + b'\x01' * 99_999 + b'Ns',
    'text encoded again and again': b'('
    + TEXT
    + b'q\x00'
    + (b'c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R') * 5000
    + b'l',
    'text listed again and again': b'(' + TEXT + b'2' * 50_000 + b'l',
    'name joined again and again': TEXT
    + b'q\x00'
    + b'h\x00h\x00\x930' * 200_000,
    'attributes of attributes': b'cx\ny\nq\x00'
    + b'0c__builtin__\ngetattr\n(h\x00X\x01\x00\x00\x00atRq\x00' * 50_000,
    'objects in objects': b'cx\ny\n' + b'cx\ny\n)\x81}\x92' * 50_000,
    'dict copied again and again': b'('
    + b'('
    + b''.join(b'M' + n.to_bytes(2, 'little') + b'N' for n in range(20_000))
    + b'dq\x00'
    + b'cargparse\nNamespace\n)Rh\x00b' * 5000
    + b'l',
    'many steps': b']' + b'N0' * 1_000_001,
    'a file of marks': b'(' * 1_000_000 + b'l',
}
"""Opcodes without PROTO and STOP."""


def as_pickle(payload: bytes) -> bytes:
    return b'\x80\x04' + payload + b'.'


def as_zip(
    pickled: bytes, compressed: bool = False, **members: bytes
) -> bytes:
    """Return the format of torch 1.6 and later."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', kind) as archive:
        archive.writestr('archive/data.pkl', pickled)
        for name, data in members.items():
            archive.writestr(f'archive/data/{name}', data)
    return file.getvalue()


def as_stream(pickled: bytes) -> bytes:
    """Return torch's older format."""
    parts = [pickle.dumps(part) for part in (MAGIC, 1001, {})]
    return b''.join([*parts, pickled, pickle.dumps([])])


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Flip, remove, repeat or insert some bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        place = draw.randrange(len(changed))
        length = draw.choice([1, 1, 2, 4, 8, 64])
        piece = changed[place : place + length]
        changed[place : place + length] = draw.choice(
            [
                b'',
                piece * 2,
                draw.randbytes(len(piece)),
                bytes([draw.choice(OPCODES)]),
                b'\xff' * len(piece),
            ]
        )
        changed = changed or bytearray(1)
    return bytes(changed)


def random_opcodes(draw: random.Random) -> bytes:
    """Return opcodes in any order, each with an argument of its kind."""
    pieces = [b'(', b')', b']', b'}', b'N', b'K\x01', b'q\x00', b'h\x00']
    pieces += [b'2', b'0', b'\x85', b'\x86', b't', b'l', b'd', b's', b'u']
    pieces += [b'a', b'e', b'b', b'R', b'\x81', b'\x94', b'\x8f', b'\x90']
    pieces += [b'Q', b'\x93', b'\x8c\x05torch', b'\x8c\x04Size']
    pieces += [f'c{name}\n'.encode().replace(b'!', b'\n') for name in NAMES]
    pieces += [b'X\x06\x00\x00\x00latin1', b'C\x02ab', b'\x8a\x01\x05']
    return b''.join(draw.choices(pieces, k=draw.randrange(3, 60)))


OPCODES = b'().0]}NKqh2\x85\x86\x87tldsuaebRQ\x81\x93\x94\x8f\x90\x91XBCJMr'
NAMES = [
    'torch._utils!_rebuild_tensor_v2',
    'torch._utils!_rebuild_parameter',
    'torch!FloatStorage',
    'torch!float32',
    'torch!Size',
    'torch!device',
    'collections!OrderedDict',
    'collections!Counter',
    'argparse!Namespace',
    'mmengine.logging.history_buffer!HistoryBuffer',
    'numpy!dtype',
    'numpy!ndarray',
    'numpy.core.multiarray!_reconstruct',
    'numpy.core.multiarray!scalar',
    'numpy.core.numeric!_frombuffer',
    '_codecs!encode',
    '__builtin__!getattr',
    '__builtin__!set',
    '__builtin__!bytearray',
    '__builtin__!complex',
]


def changed_files(
    files: list[Path], draw: random.Random, folder: Path
) -> Iterator[Path]:
    """Write and yield changed files without end.

    Args:
        files (list[Path]): the unchanged ones, of any format.
        draw (random.Random): the source of the changes.
        folder (Path): for the changed files.
    """
    bases = [(file.suffix, file.read_bytes()) for file in files]
    pickles = []
    for suffix, data in bases:
        if data.startswith(b'PK'):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                name = next(n for n in archive.namelist() if 'data.pkl' in n)
                pickles.append(archive.read(name))
        if suffix == '.pkl':
            pickles.append(data)
    for number in count():
        match number % 4:
            case 0:
                suffix, data = draw.choice(bases)
                data = mutated(data, draw)
            case 1:  # with a checksum that fits
                suffix, data = '.pth', mutated(draw.choice(pickles), draw)
                data = as_zip(data, **{'0': bytes(64), '1': bytes(64)})
            case 2:
                suffix, data = '.pkl', mutated(draw.choice(pickles), draw)
            case _:
                suffix, data = '.pkl', as_pickle(random_opcodes(draw))
        file = folder / f'{number}{suffix}'
        file.write_bytes(data)
        yield file


def main() -> None:
    """Read the files of a folder under limits, and print how each ends.

    python -m tests.test_checkpoint.hostile FOLDER
    """
    import resource
    import signal

    from simim_plugin.checkpoint import CheckpointError, read_checkpoint

    folder = Path(sys.argv[1])
    files = sorted(folder.iterdir())
    status = dict(
        line.split(':\t', 1)
        for line in Path('/proc/self/status').read_text().splitlines()
    )
    now = int(status['VmSize'].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
    for file in files:
        print('FILE', file.name, end=' ', flush=True)
        signal.setitimer(signal.ITIMER_PROF, 20)  # ends the process
        try:
            read_checkpoint(file)
            print('loaded')
        except CheckpointError as error:
            print('refused', repr(str(error)))
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == '__main__':
    main()
