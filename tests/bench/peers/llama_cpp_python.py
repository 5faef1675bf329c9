"""Runs in its own environment: llama-cpp-python's server. Argument: a JSON object of its settings.

The server has no option against weight repacking, so the default of the library is changed under it.
Ends when standard input does, so that nothing outlives the bench.
"""

import json
import os
import sys
import threading

import llama_cpp.llama_cpp as library
import uvicorn

_defaults = library.llama_model_default_params


def _without_repacking() -> library.llama_model_params:
    params = _defaults()
    params.use_extra_bufts = False
    return params


def _leave_with_the_bench() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    library.llama_model_default_params = _without_repacking

    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    settings = json.loads(sys.argv[1])
    server = ServerSettings(host="127.0.0.1", port=settings.pop("port"), interrupt_requests=False)
    app = create_app(server_settings=server, model_settings=[ModelSettings(**settings)])
    threading.Thread(target=_leave_with_the_bench, daemon=True).start()
    info = library.llama_print_system_info().decode()
    print(f"ready {info}", flush=True)
    uvicorn.run(app, host=server.host, port=server.port, log_level="warning")


main()
