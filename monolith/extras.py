"""What beside the base has to be installed for a command: the extras of the distribution, by what is imported.

`tests/test_extras.py` holds this page to the imports of the package and to `pyproject.toml`.
"""

from __future__ import annotations

DISTRIBUTION = "monolith-recsys"

_EXTRAS = {  # third-party module -> the extras that install it, the nearest first
    "completion": ("shtab",),
    "serve": ("httpx", "onnxruntime", "prometheus_client", "redis", "safetensors", "starlette", "uvicorn"),
    "stream": ("kafka", "pyarrow", "tqdm"),
    "bench": ("matplotlib", "deepctr_torch"),
    "sweep": ("optuna",),
    "tensorboard": ("tensorboard",),
}
_PINNED = ("torch", "torchrec", "fbgemm_gpu")  # a set that only works together, installed in an order of its own


def advice(module: str) -> str | None:
    """How to install what ``import module`` lacks; None for a module that no command asks for."""
    top = module.partition(".")[0]
    if top in _PINNED:
        return (
            f"{top} is not installed. Training takes torch, torchrec and fbgemm-gpu-cpu, a set tested together: "
            f"`make dev` in a checkout installs it, README.md says how to do so by hand"
        )
    for extra, modules in _EXTRAS.items():
        if top in modules:
            return f"{top} is not installed: pip install '{DISTRIBUTION}[{extra}]'"
    return None
