"""Make ``.venv`` and install the tested versions into it.

    python3 requirements/install.py pretraining
    python3 requirements/install.py test
    python3 requirements/install.py upstream

``pretraining`` needs no compiler. ``test`` adds detection, segmentation, the
compiled operators of mmcv and the tools of the test suite. ``upstream`` is
what ``test`` is, with the libraries of OpenMMLab itself instead of the OneDL
forks, in ``.venv-upstream``. A stage that stands already is left alone, so
the second run takes no time.

mmcv comes as source and pip keeps one wheel per source file, whether it was
built with operators or without, and for whichever torch. So pip's cache is
never used for it, and the wheel with operators has a folder of our own, named
after torch and Python, that every clone on the machine shares.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = sys.argv[1:] == ['upstream']
MMCV = 'mmcv' if UPSTREAM else 'onedl-mmcv'
VENV = ROOT / ('.venv-upstream' if UPSTREAM else '.venv')
PYTHON = VENV / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
REQUIREMENTS = ROOT / 'requirements'
CONSTRAINTS = (VENV if UPSTREAM else REQUIREMENTS) / 'constraints.txt'
# torch 2.1 is built for Python up to 3.11.
NEWEST = 11 if UPSTREAM else 12
SILENCE = 8.0
"""Seconds without a line of pip's after which we print one of our own."""


def main() -> None:
    stages = {
        'pretraining': [install_pretraining],
        'test': [install_pretraining, install_test],
        'upstream': [install_upstream],
    }
    if len(sys.argv) != 2 or sys.argv[1] not in stages:
        sys.exit(f'Say what to install: {" or ".join(stages)}.')
    if not (3, 10) <= sys.version_info[:2] <= (3, NEWEST):
        sys.exit(
            f'Python {sys.version.split()[0]} is not supported: run with '
            f'Python 3.10 to 3.{NEWEST}, as in `make PYTHON=python3.11`.'
        )
    make_venv()
    for install in stages[sys.argv[1]]:
        stamp = VENV / f'.{install.__name__}'
        if stamp.exists() and stamp.read_text() == fingerprint():
            continue
        stamp.unlink(missing_ok=True)
        start = time.monotonic()
        install()
        stamp.write_text(fingerprint())
        print(
            f'{install.__name__} took {time.monotonic() - start:.0f} s',
            flush=True,
        )


def fingerprint() -> str:
    """A hash of all that decides what is installed, and where."""
    digest = hashlib.sha256(f'{ROOT} {sys.version}'.encode())
    files = [*sorted(REQUIREMENTS.glob('*.*')), ROOT / 'setup.py']
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """Make the venv, anew if it is of another Python or was moved here."""
    origin = f'{ROOT} {sys.version_info[0]}.{sys.version_info[1]}'
    note = VENV / '.origin'
    if PYTHON.exists():
        known = note.read_text() if note.exists() else found_origin()
        if known == origin:
            note.write_text(origin)
            return
    run(
        f'making {VENV.name}',
        [sys.executable, '-m', 'venv', '--clear', str(VENV)],
    )
    note.write_text(origin)


def found_origin() -> str:
    """The origin of a venv made by other means; '' if it is not whole."""
    code = (
        'import pip, sys;'
        'assert sys.prefix != sys.base_prefix;'
        'print("%d.%d" % sys.version_info[:2])'
    )
    command = [str(PYTHON), '-c', code]
    found = subprocess.run(command, capture_output=True, text=True)
    return f'{ROOT} {found.stdout.strip()}' if found.returncode == 0 else ''


def install_pretraining() -> None:
    """torch, the OpenMMLab stack (OneDL) and this package, editable."""
    pip('pretraining', '-r', 'requirements/pretraining.txt')
    pip('mmcv without compiled operators', '--no-cache-dir', MMCV)
    use_headless_opencv()
    install_plugin()


def install_plugin() -> None:
    """This package, editable."""
    pip(
        'simim_plugin',
        '--no-deps',
        '--no-build-isolation',
        '--editable',
        str(ROOT),
    )


def install_test() -> None:
    """Detection, segmentation, test tools and the operators of mmcv."""
    pip('test', '-r', 'requirements/test.txt', '-r', 'requirements/build.txt')
    use_headless_opencv()
    install_operators()


def install_upstream() -> None:
    """All of the above with upstream OpenMMLab and the torch of its time."""
    CONSTRAINTS.write_text('\n'.join(upstream_constraints()))
    wanted = [
        line
        for name in ('pretraining', 'test', 'build', 'upstream')
        for line in lines(name)
        if not line.startswith(('onedl-', f'{MMCV}==', 'openmim=='))
    ]
    pip('upstream', *wanted)
    use_headless_opencv()
    install_operators()
    # mim without its opendatalab, which pins setuptools 60.
    pip('what mim needs', 'colorama', 'pandas', 'tabulate')
    pip('mim', '--no-deps', 'openmim')
    install_plugin()


def upstream_constraints() -> list[str]:
    """The constraints, but for what upstream needs in another version."""
    own = lines('upstream')
    replaced = {line.split('==')[0] for line in own}
    others = lines('constraints')
    return own + [x for x in others if x.split('==')[0] not in replaced]


def lines(name: str) -> list[str]:
    """The lines of a file of requirements, without comments."""
    text = (REQUIREMENTS / f'{name}.txt').read_text()
    return [x for x in text.splitlines() if x and not x.startswith('#')]


def install_operators() -> None:
    """mmcv with operators, unless it is there."""
    if not operators_import():
        wheel = wheel_with_operators()
        pip('mmcv with operators', '--no-deps', '--force-reinstall', wheel)
        if not operators_import():
            sys.exit(
                f'The operators in {wheel} do not import: delete that file '
                'and run the same command again to build them anew.'
            )


def use_headless_opencv() -> None:
    """Let the OpenCV without a window system be the one that is imported.

    The stack asks for opencv-python and opencv-python-headless, which write
    the same files. The former needs libGL, which a bare machine lacks; the
    one that is installed last wins.
    """
    # Reading the file, since the import may fail for want of libGL.
    report = (
        'import importlib.util as u, pathlib as p;'
        'print(p.Path(u.find_spec("cv2").origin).with_name("version.py")'
        '.read_text())'
    )
    if 'headless = True' not in python(report):
        pip(
            'OpenCV that needs no libGL',
            '--no-deps',
            '--force-reinstall',
            'opencv-python-headless',
        )


def operators_import() -> bool:
    """Whether mmcv's compiled operators are there and fit this torch."""
    command = [str(PYTHON), '-c', 'import mmcv.ops']
    return subprocess.run(command, capture_output=True).returncode == 0


def wheel_with_operators() -> str:
    """Path of a wheel of mmcv with operators, built if there is none.

    CPU operators, unless FORCE_CUDA=1 (mmcv's own switch) asks for CUDA ones.
    """
    cuda = os.environ.get('FORCE_CUDA') == '1'
    torch = python('import importlib.metadata as m; print(m.version("torch"))')
    name = 'torch{}-cp{}{}'.format(torch.strip(), *sys.version_info[:2])
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = cache / 'simim_plugin' / 'wheels' / (name + '-cuda' * cuda)
    pattern = f'{MMCV.replace("-", "_")}-{pinned(MMCV)}-*.whl'
    for wheel in folder.glob(pattern):
        print(f'Using {wheel}, built earlier.', flush=True)
        return str(wheel)

    headers = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not (shutil.which('c++') or shutil.which('g++')):
        sys.exit(
            'mmcv has to be compiled and there is no C++ compiler: install '
            'one, as in `apt-get install g++`.'
        )
    if not headers.exists():
        sys.exit(
            f'mmcv has to be compiled and {headers} is missing: install '
            'the headers of Python, as in `apt-get install python3-dev`.'
        )
    environment = dict(os.environ)
    if not cuda:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    folder.mkdir(parents=True, exist_ok=True)
    # A build that is cut short must leave no wheel that a later run trusts.
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        run(
            'building the operators of mmcv (7 minutes on 2 cores)',
            [
                *[str(PYTHON), '-m', 'pip', 'wheel', '--no-deps'],
                *['--no-build-isolation', '--no-cache-dir'],
                *['--constraint', str(CONSTRAINTS), '--wheel-dir'],
                *[unfinished, MMCV],
            ],
            environment,
        )
        (wheel,) = Path(unfinished).glob(pattern)
        if not any(
            '_ext' in name for name in zipfile.ZipFile(wheel).namelist()
        ):
            sys.exit(
                f'The build of mmcv left its operators out: remove {VENV} '
                'and run the same command again.'
            )
        return str(wheel.replace(folder / wheel.name))


def pinned(name: str) -> str:
    """The version of a distribution in the constraints."""
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith(f'{name}=='):
            return line.split('==')[1]
    sys.exit(f'{CONSTRAINTS} has no line for {name}: add one.')


def python(code: str) -> str:
    """What a line of Python prints in the venv."""
    command = [str(PYTHON), '-c', code]
    return subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def pip(what: str, *arguments: str) -> None:
    """``pip install`` with the pinned versions."""
    run(
        f'installing {what}',
        [
            *[str(PYTHON), '-m', 'pip', 'install', '--progress-bar', 'off'],
            *['--disable-pip-version-check', '--constraint'],
            *[str(CONSTRAINTS), *arguments],
        ],
    )


def run(
    what: str, command: list[str], environment: dict[str, str] | None = None
) -> None:
    """Run a command; pass its lines on, and print one where it is silent."""
    print(f'== {what}', flush=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    start = spoken = time.monotonic()
    last = ''

    def pass_on() -> None:
        nonlocal spoken, last
        assert process.stdout
        for line in process.stdout:
            if not line.startswith('Requirement already satisfied'):
                print(line, end='', flush=True)
                spoken, last = time.monotonic(), line.strip()[:60]

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(1)
        if time.monotonic() - spoken > SILENCE:
            spoken = time.monotonic()
            print(
                f'   {what}: {spoken - start:.0f} s, after "{last}"',
                flush=True,
            )
    if process.wait() != 0:
        sys.exit(
            f'Failed at {what}: the lines above say why; run the same '
            'command again once that is mended.'
        )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('Stopped; the same command goes on from here.')
