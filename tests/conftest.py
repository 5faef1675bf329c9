"""What holds for all tests, however they are started."""

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C would reach none of
# the programs that are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
