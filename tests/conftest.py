"""Two test processes run side by side (``-n 2``); each computes with one thread, and so do the scripts they start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
