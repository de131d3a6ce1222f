"""Serving needs neither torch nor Kafka, and a part loads only what it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER = ["torch", "torchrec", "fbgemm_gpu", "kafka", "monolith.training", "monolith.streaming"]


def loaded(statement: str) -> set[str]:
    """Top-level modules, and monolith's packages, that a fresh interpreter has after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {name for name in names if "." not in name} | {name for name in names if name.count(".") == 1}


@pytest.mark.parametrize(
    ("statement", "not_needed"),
    [
        ("import monolith.serving", ["numpy"]),
        ("from monolith.serving import Replica, open_store", ["onnxruntime", "starlette", "uvicorn", "redis", "httpx"]),
        ("from monolith.serving import Publisher", ["onnxruntime", "starlette", "redis", "httpx"]),
        ("from monolith.serving import Client", ["onnxruntime", "starlette", "uvicorn", "redis", "lmdb"]),
        ("from monolith.serving import serve, compare", ["onnxruntime", "redis", "httpx"]),
        (
            "from monolith.serving import open_store; open_store('redis://h/0', 'm')",
            ["lmdb", "onnxruntime", "starlette"],
        ),
    ],
)
def test_only_what_is_used_is_loaded(statement, not_needed):
    assert loaded(statement) & {*NEVER, *not_needed} == set()


def test_a_name_that_is_none_of_the_packages_lists_them():
    import monolith.serving

    with pytest.raises(AttributeError, match=r"has no 'Replika'; it has AsyncClient.*Replica"):
        _ = monolith.serving.Replika
