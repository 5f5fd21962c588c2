"""torchrun, with the processes' exit code as its own.

torchrun itself ends with 1 whatever ended its processes, and dies of SIGUSR1.
Called by dist_train.sh: python tools/launch.py [torchrun's arguments].
"""

import os
import signal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

STOPPED = 75


def terminate(number: int, frame: object) -> None:
    """Treat SIGUSR1 as SIGTERM, which torchrun passes on."""
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == '__main__':
    signal.signal(signal.SIGUSR1, terminate)
    try:
        main()
    except SignalException:
        raise SystemExit(STOPPED) from None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        raise SystemExit(STOPPED if codes == {STOPPED} else 1) from None
