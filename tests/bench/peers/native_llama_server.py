"""Becomes a llama-server binary that dies with its parent; the arguments are its command."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)

ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
print("ready", flush=True)
os.execv(sys.argv[1], sys.argv[1:])
