"""Imported first by the server that forks workers, and by nothing else: keep workers quiet that start too late.

A worker that is forked when the process that wanted it has been interrupted finds nothing to work with, and would print
a traceback. What goes wrong in a worker's work is passed on to that process and not printed here.
"""

import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    sys.excepthook = lambda kind, error, trace: None
