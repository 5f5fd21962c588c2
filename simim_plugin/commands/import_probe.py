"""Import modules and report each as a line of JSON: a script of the doctor.

    python import_probe.py ROOT MODULE...

A module that kills the process is the first one without a line. ROOT is the
folder of this package, which may not be installed.
"""

import importlib
import json
import os
import sys
import warnings
from types import ModuleType
from typing import Any


def facts_of(
    module: ModuleType, warned: list[warnings.WarningMessage]
) -> dict[str, Any]:
    """Return what the doctor reports about an imported module."""
    if module.__name__ == 'simim_plugin.operators':
        ours = type(sys.modules['mmcv._ext']).__name__ == 'Operators'
        texts = [str(warning.message) for warning in warned]
        texts = [text for text in texts if 'operators of mmcv' in text]
        return dict(ours=ours, warned=texts)
    if module.__name__ != 'torch':
        return {}
    try:
        import numpy

        module.from_numpy(numpy.zeros(1))
    except ImportError:
        pass
    cuda = module.version.cuda
    gpus = []
    for i in range(module.cuda.device_count() if cuda else 0):
        gpu = module.cuda.get_device_properties(i)
        gpus.append([gpu.name, gpu.total_memory, gpu.major, gpu.minor])
    return dict(cuda=cuda, gpus=gpus)


def main() -> None:
    """Import the modules; their own output goes to stderr."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path = [*(p for p in sys.path if p != folder), sys.argv[1]]
    report = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    with warnings.catch_warnings(record=True) as warned:
        for name in sys.argv[2:]:
            result: dict[str, Any] | str
            try:
                result = facts_of(importlib.import_module(name), warned)
            except BaseException as error:
                text = ' '.join(str(error).split())
                result = f'{type(error).__name__}: {text}'[:300]
            print(json.dumps([name, result]), file=report)
            if name == 'torch' and isinstance(result, str):
                break  # importing it again gives another error


if __name__ == '__main__':
    main()
