"""Runs in its own environment: xllamacpp's in-process llama-server. Argument: a JSON object of parameters.

Ends when standard input does, so that nothing outlives the bench. `cpuparams.n_threads` is a path.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    params = xllamacpp.CommonParams()
    for name, value in json.loads(sys.argv[1]).items():
        *path, last = name.split(".")
        owner = params
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    server = xllamacpp.Server(params)
    print(f"ready at {server.listening_address}, {xllamacpp.get_system_info()}", flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads have no end of their own


main()
