"""Handle what happens around a run: locks, signals, faults and changes.

- ``lock``: allow one training run per work directory.
- ``stopping``: save the state of a run that a signal ends.
- ``changes``: find the settings that differ from those of the run to resume.
- ``processes``: start several processes on CPUs, and end loader workers.
- ``batch_norm``: compute BatchNorm over all processes, on CPUs too.
- ``answering``: name a process that no longer answers.
- ``faults``: report a killed process in one sentence.
- ``open_files``: report a limit of open files or of shared memory.
- ``memory``: report a GPU or a machine without memory.
- ``finite_loss``: end a run without a finite loss with an error.
- ``late_figures``: read a step's figures from the device only when needed.
- ``history``: bound the logged values that a run keeps.
- ``terminal``: print few lines; the log file has every line.
"""
