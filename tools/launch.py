"""Run torchrun, and exit with the code of its processes.

torchrun itself exits with 1 for every failure and dies of SIGUSR1.
dist_train.sh calls this: python tools/launch.py [torchrun's arguments].
"""

import os
import signal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

STOPPED = 75
INTERRUPTED = 130


def terminate(number: int, frame: object) -> None:
    """Turn SIGUSR1 into SIGTERM, which torchrun forwards."""
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == '__main__':
    signal.signal(signal.SIGUSR1, terminate)
    try:
        main()
    except SignalException as error:
        by_user = error.sigval == signal.SIGINT
        raise SystemExit(INTERRUPTED if by_user else STOPPED) from None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        (code,) = codes if len(codes) == 1 else (1,)
        stops = (STOPPED, INTERRUPTED)
        raise SystemExit(code if code in stops else 1) from None
