"""Limit every test process to one thread, because there are as many processes as processors."""

import os

# Set before torch is imported. OpenMP threads that share a processor spend ten times as long waiting as working.
os.environ.setdefault("OMP_NUM_THREADS", "1")
