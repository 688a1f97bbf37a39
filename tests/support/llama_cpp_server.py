"""Runs a real llama.cpp server: ``python -m tests.support.llama_cpp_server MODEL.gguf PORT [SLOTS] [CONTEXT]``.

The server is llama.cpp's own, as built in the ``xllamacpp`` wheel. It runs until it is killed.
"""

import signal
import sys


def main(model: str, port: int, slots: int = 4, context: int = 2048) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = ["small"]
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
