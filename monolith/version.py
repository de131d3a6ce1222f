"""What `monolith --version` says: the build, its vector code, and the versions that a report of a fault should name.

Nothing heavy is imported: the versions of torch and its kin come from their metadata.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from monolith import __version__

_SIMD = {"avx2": "AVX2", "portable": "portable (no AVX2 here, or MONOLITH_SIMD=portable)"}
_TRAINS_WITH = {
    "torch": ("torch",),
    "torchrec": ("torchrec", "torchrec-cpu"),
    "fbgemm_gpu": ("fbgemm-gpu-cpu", "fbgemm-gpu"),
}


def lines() -> Iterator[str]:
    """The lines, the first of them ``monolith VERSION`` and the build's commit."""
    try:
        from monolith.tables import _core
    except ImportError as error:
        yield f"monolith {__version__}"
        yield f"native core: cannot be loaded: {error}"
    else:
        yield f"monolith {__version__} ({f'commit {_core.commit}' if _core.commit else 'not built from a checkout'})"
        yield f"native core: {_core.compiler}, vector code {_SIMD[_core.simd()]}"
    yield f"Python {platform.python_version()}, NumPy {_installed('numpy')}, {platform.platform()}"
    yield ", ".join(f"{name} {_installed(*names)}" for name, names in _TRAINS_WITH.items())


def _installed(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
