"""What the package imports is what its distribution installs: the base, and the extra of each part."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from monolith.extras import _EXTRAS, _PINNED, advice

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

# Imported by libraries, not by us: who does.
INDIRECT = {
    "onnx": "torch.onnx",
    "onnxscript": "torch.onnx",
    "hiredis": "redis",
    "uvloop": "uvicorn",
    "httptools": "uvicorn",
    "lz4": "kafka-python",
    "python-snappy": "kafka-python",
    "zstandard": "kafka-python",
    "crc32c": "kafka-python",
    "scikit-learn": "bench/ and tests/",
    "pyarrow": "bench/",
    "tqdm": "bench/",
}

# What may be imported below a folder. Commands put parts together, and name the extra that is missing.
PARTS = {
    "tables": [],
    "monolith/config": [],
    "serving": ["serve"],
    "streaming": ["stream"],
    "monolith/training": ["train", "torch"],
    "monolith/dashboard": ["train", "torch", "tensorboard"],
}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


BASE = {name_of(one) for one in PROJECT["dependencies"]}
EXTRAS = {extra: {name_of(one) for one in all_} for extra, all_ in PROJECT["optional-dependencies"].items()}


def imports(path: Path) -> Iterator[str]:
    """Third-party top-level modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "monolith":
                yield "tensorboard" if name == "torch.utils.tensorboard" else top


@functools.cache
def imported(folder: str) -> frozenset[str]:
    return frozenset(name for path in (CHECKOUT / folder).rglob("*.py") for name in imports(path))


distributions = functools.cache(packages_distributions)


def distribution(module: str) -> str:
    return name_of(distributions().get(module, [module])[0])


def everywhere() -> frozenset[str]:
    return frozenset().union(*(imported(folder) for folder in ("monolith", "tables", "streaming", "serving")))


def test_every_import_belongs_to_the_base_or_to_an_extra_that_users_can_name():
    offered = BASE.union(*(EXTRAS[extra] for extra in EXTRAS if extra != "dev"))
    assert {m for m in everywhere() if m not in _PINNED and distribution(m) not in offered} == set()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_what_its_own_extra_installs(part):
    allowed = BASE.union(*(EXTRAS.get(extra, set()) for extra in PARTS[part]))
    pinned = _PINNED if "torch" in PARTS[part] else ()
    assert {m for m in imported(part) if m not in pinned and distribution(m) not in allowed} == set()


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"dev"}))
def test_an_extra_installs_nothing_that_nobody_imports(extra):
    used = {distribution(module) for module in everywhere()}
    assert EXTRAS[extra] - used - INDIRECT.keys() == set()


def test_the_advice_names_for_every_module_an_extra_that_installs_it():
    for module in everywhere() - set(_PINNED):
        if distribution(module) in BASE:
            assert advice(module) is None
        else:
            extra = re.fullmatch(rf"{module} is not installed: pip install 'monolith-recsys\[(\w+)\]'", advice(module))
            assert distribution(module) in EXTRAS[extra[1]]
    assert {m for modules in _EXTRAS.values() for m in modules} <= everywhere()


@pytest.mark.parametrize(
    ("missing", "command", "says"),
    [
        ("torch", ["train", "job.yaml"], "README.md says how"),
        ("shtab", ["completion", "bash"], "pip install 'monolith-recsys[completion]'"),
        ("kafka", ["inspect", "kafka://127.0.0.1:1/x"], "pip install 'monolith-recsys[stream]'"),
        ("redis", ["inspect", "redis://127.0.0.1:1/0"], "pip install 'monolith-recsys[serve]'"),
    ],
)
def test_a_command_without_its_library_ends_in_one_line_that_says_what_to_install(tmp_path, missing, command, says):
    (tmp_path / "job.yaml").write_text("name: m\ninput: {samples: 'log://x'}\ntables: [{name: user, dim: 4}]\n")
    code = f"import sys\nsys.modules[{missing!r}] = None\nfrom monolith.cli import main\nmain({command!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
