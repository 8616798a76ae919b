"""For all tests: one thread a test process, since there are as many processes as processors."""

import os

# Before torch is imported: OpenMP threads that share a processor wait for each other, ten times as long as they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
