"""Runs that meet each other, the user or a fault, and go on later.

- ``lock``: one training run per work directory.
- ``stopping``: signals end a run with its state saved.
- ``changes``: the settings that differ from those of the run to resume.
- ``processes``: several processes on CPUs; loader workers end with a run.
- ``batch_norm``: BatchNorm over all processes, on CPUs too.
- ``answering``: a process that no longer answers is named.
- ``faults``: a process that was killed is one sentence.
- ``open_files``: the limits of open files and of shared memory are one too.
- ``memory``: a GPU or a machine without memory is one, too.
- ``finite_loss``: a run without a finite loss ends with an error.
- ``late_figures``: a step's figures are read when somebody asks for them.
- ``history``: the logged values that a run keeps are bounded.
- ``terminal``: the terminal is short, the log file has every line.
"""
