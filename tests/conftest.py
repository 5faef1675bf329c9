"""What holds for all tests, however they are started."""

import os
import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C would reach none of
# the programs that are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in the worker's own environment: threads of an engine in this process must not spin for ever at a
# barrier while another process wants their core. OpenMP reads it once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
