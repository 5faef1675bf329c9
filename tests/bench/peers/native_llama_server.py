"""Runs a llama-server binary, the arguments being its command, until standard input ends."""

import os
import subprocess
import sys
import threading


def main() -> None:
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def leave_with_the_bench() -> None:
        sys.stdin.read()
        server.kill()

    threading.Thread(target=leave_with_the_bench, daemon=True).start()
    print("ready {}", flush=True)
    os._exit(server.wait())


main()
