"""`monolith --version`: which build, which vector code, beside what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import monolith
from monolith import version


def told(**environment: str) -> list[str]:
    command = [sys.executable, "-m", "monolith", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=True)
    return done.stdout.splitlines()


def test_version_names_the_build_its_vector_code_and_what_it_runs_on():
    first, core, python, torch = told()
    assert re.fullmatch(
        re.escape(f"monolith {monolith.__version__} (") + r"(commit [0-9a-f]{7,}(-dirty)?|not built from a checkout)\)",
        first,
    )
    assert re.fullmatch(r"native core: (GCC|Clang|Apple).* [0-9]+\.[0-9]+.*, vector code (AVX2|portable .*)", core)
    assert f"Python {platform.python_version()}, NumPy " in python
    assert re.fullmatch(r"torch [0-9].*, torchrec .*, fbgemm_gpu .*", torch)


def test_version_says_portable_where_that_is_asked_for():
    assert "vector code portable" in told(MONOLITH_SIMD="portable")[1]


def test_version_imports_no_torch():
    code = "import sys\nfrom monolith.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'torchrec', 'fbgemm_gpu', 'kafka', 'pyarrow'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_told_without_torch_and_without_a_core(monkeypatch):
    monkeypatch.setattr(version, "_TRAINS_WITH", {"torch": ("no-such-distribution",)})
    assert list(version.lines())[-1] == "torch not installed"
    monkeypatch.delattr("monolith.tables._core")
    monkeypatch.setitem(sys.modules, "monolith.tables._core", None)
    first, core, *_ = version.lines()
    assert first == f"monolith {monolith.__version__}"
    assert core.startswith("native core: cannot be loaded: ")
