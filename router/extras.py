"""Optional packages: which extra of this package installs a module that could not be imported."""

from router.errors import MissingDependency

# Extra → modules of its packages. A module in two extras is attributed to the first.
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
    """Return the error that says how to install the module; None if it belongs to no extra."""
    name = error.name or ""
    for extra, modules in EXTRAS.items():
        if any(name == module or name.startswith(module + ".") for module in modules):
            # torch first and alone: a version range may install a CUDA build of gigabytes.
            first = "pip install torch, then " if name == "torch" else ""
            return MissingDependency(f"this needs {name}: {first}pip install 'compute-optimal-router[{extra}]'")
    return None
