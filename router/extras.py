"""Optional packages: which extra of this package brings what a command could not import."""

from router.errors import MissingDependency

# Extra → the modules that its packages bring. A module of two extras counts for the first.
EXTRAS = {
    "in-process": ("torch", "transformers", "gguf", "accelerate", "peft", "safetensors"),
    "http": ("starlette", "uvicorn"),
    "vllm": ("httpx2", "tenacity"),
    "openai": ("httpx2", "tenacity"),
    "postgresql": ("psycopg",),
    "traces": ("opentelemetry.sdk", "opentelemetry.exporter"),
    "ray": ("ray",),
    "code": ("pyseccomp",),
    "offline": ("jinja2", "matplotlib", "pandas", "pyarrow", "rapidfuzz", "reasoning_gym", "scipy", "tqdm"),
}


def missing(error: ModuleNotFoundError) -> MissingDependency | None:
    """The error with the way out; None where the module belongs to no extra."""
    name = error.name or ""
    for extra, modules in EXTRAS.items():
        if any(name == module or name.startswith(module + ".") for module in modules):
            # torch first and by itself: an open range may bring a CUDA build of gigabytes.
            first = "pip install torch, then " if name == "torch" else ""
            return MissingDependency(f"this needs {name}: {first}pip install 'compute-optimal-router[{extra}]'")
    return None
