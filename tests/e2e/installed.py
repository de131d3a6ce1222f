"""The wheel, and virtual environments that hold it beside what its extras ask for and nothing else.

No package index is asked: what an extra asks for is linked from the environment in which the tests run, found by the
metadata of the distributions, as pip would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "monolith-recsys"
TORCH = ("torch", "torchrec", "fbgemm_gpu-cpu")  # a set installed by hand, see requirements/
STANDS_FOR = {"fbgemm-gpu": "fbgemm_gpu-cpu"}  # what requirements/lock.txt has in its place


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, built with what the environment has."""
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "wheel", str(CHECKOUT), *offline, "-w", str(folder)], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with the wheel, its base requirements and those of ``extras``."""

    def __init__(self, folder: Path, wheel: Path, *extras: str, torch: bool = False) -> None:
        self.folder = folder
        _run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)])
        python = folder / "bin/python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
        (site,) = folder.glob("lib/python*/site-packages")
        (own,) = Distribution.discover(name=NAME, path=[str(site)])
        for found in _closure(own, {"", *extras}, TORCH if torch else ()):
            _link(found, site)

    def run(self, *command: str, cwd: Path) -> str:
        """What a program of the environment prints; it must succeed."""
        return _run([str(self.folder / "bin" / command[0]), *command[1:]], cwd=cwd)

    def spawn(self, *command: str, cwd: Path) -> subprocess.Popen[bytes]:
        """Start a program of the environment."""
        with (cwd / "out.log").open("ab") as output:
            words = [str(self.folder / "bin" / command[0]), *command[1:]]
            return subprocess.Popen(words, cwd=cwd, env=_environment(), stdout=output, stderr=output)


def _closure(own: Distribution, extras: set[str], more: tuple[str, ...]) -> list[Distribution]:
    """What ``own`` asks for with ``extras``, and what that asks for, and so on."""
    waiting = [*_wanted(own, extras), *((name, {""}) for name in more)]
    found: dict[str, Distribution] = {}
    while waiting:
        name, asked = waiting.pop()
        name = STANDS_FOR.get(name, name)
        if name.lower() in found:
            continue
        try:
            found[name.lower()] = distribution(name)
        except PackageNotFoundError as error:
            if name == "setuptools":  # torch asks for it, and needs it to compile extensions alone
                continue
            raise AssertionError(f"{name} is asked for, and not in requirements/lock.txt") from error
        waiting += _wanted(found[name.lower()], asked)
    return list(found.values())


def _wanted(of: Distribution, extras: set[str]) -> list[tuple[str, set[str]]]:
    wanted = [Requirement(text) for text in of.requires or []]
    return [
        (one.name, {"", *one.extras})
        for one in wanted
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def _link(found: Distribution, site: Path) -> None:
    """Have the distribution's files and what Python compiled them to in ``site``, by links, file by file."""
    for file in found.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        source, target = Path(str(found.locate_file(file))), site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(source)
        compiled = target.parent / "__pycache__"
        if source.suffix == ".py" and not compiled.is_symlink():  # only read, see _environment
            compiled.symlink_to(source.parent / "__pycache__")


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=_environment(), check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
