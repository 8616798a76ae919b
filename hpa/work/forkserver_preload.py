"""Imported first by the server that forks workers, and by nothing else: it ends with the process that wanted it.

The server looks whether that process still exists only when all modules are imported, which takes seconds, and on a
busy machine a minute. From here on it looks every second.

A worker that is forked when that process has been interrupted finds nothing to work with, and would print a traceback.
What goes wrong in a worker's work is passed on to that process and not printed here.
"""

import os
import signal
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    sys.excepthook = lambda kind, error, trace: None
    _PARENT = os.getppid()

    def _end_with_parent(*_: object) -> None:
        if os.getppid() != _PARENT:
            os._exit(1)

    signal.signal(signal.SIGALRM, _end_with_parent)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)  # not inherited by the workers
