"""Files of other programs with a matrix of rows, and which id each of its rows is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.errors import ConfigError

Array = npt.NDArray[Any]

_BESIDE = ("weight_id", "ids", "id")  # what ids are called that stand beside a matrix


class Source:
    """What a file holds, by name; arrays are brought when they are asked for. A context manager.

    Raises ConfigError for a suffix that is not known and for a file that cannot be read as what the suffix says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = read_file(path)

    def matrix(self, key: str | None) -> tuple[str, Array]:
        """The matrix called ``key``, or the only one that there is, and its name. Raises ConfigError."""
        matrices = [name for name, held in self._held.items() if getattr(held, "ndim", 0) == 2 and _is_float(held)]
        if key is None and len(matrices) == 1:
            key = matrices[0]
        if key is None or key not in self._held:
            seen = "several matrices" if key is None else f"no {key!r}"
            if not matrices:
                seen = "no matrix of floats"
            raise ConfigError(f"{self.path} holds {seen}: give one by --key; there are {_listed(matrices)}")
        found = _array(self._held[key], f"{self.path}: {key}")
        if found.ndim != 2:
            raise ConfigError(f"{self.path}: {key} has shape {found.shape}; a matrix (rows, dim) is needed")
        return key, found

    def ids(self, ids: str | None, rows: str | None, matrix: str, count: int) -> tuple[str, Array, Array]:
        """What the ids are, for people; the ids (n,), integers or strings; and the row of each (n,).

        ``matrix`` is the name of the matrix, which has ``count`` rows. Raises ConfigError.
        """
        beside = [matrix.rpartition(".")[0] + "." + name for name in _BESIDE] + list(_BESIDE)
        name = ids or next((name for name in beside if name in self._held), None)
        if name is None:
            return "the rows' numbers", np.arange(count), np.arange(count)
        held = self._named(name, "--ids")
        if isinstance(held, Mapping):
            places = np.array(list(held.values()), np.int64)
            return f"{name}, a map to rows", _flat(list(held), name), places
        given = _flat(held, name)
        places = np.arange(len(given)) if rows is None else _flat(self._named(rows, "--rows"), rows)
        if places.dtype.kind not in "iu":
            raise ConfigError(f"--rows {rows} holds {places.dtype}: numbers of rows are needed")
        if len(places) != len(given) or (rows is None and len(given) != count):
            there = len(places) if rows else count
            raise ConfigError(
                f"{name} has {len(given):,} ids, {rows or matrix} {there:,} rows: give an id for each row"
            )
        return name, given, places.astype(np.int64)

    def _named(self, name: str, option: str) -> Any:
        """Something in this file, or the only thing in another one."""
        if name in self._held:
            return self._held[name]
        if not Path(name).is_file():
            raise ConfigError(
                f"{option} {name}: neither a file nor in {self.path}, which has {_listed(list(self._held))}"
            )
        held = read_file(Path(name))
        if len(held) != 1:
            raise ConfigError(f"{option} {name} holds {_listed(list(held))}: a file of one array or map is needed")
        return next(iter(held.values()))

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = {}


def read_file(path: Path) -> dict[str, Any]:
    """What the file holds by name: arrays, tensors, and maps from ids to rows."""
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} is not known; allowed are {', '.join(_READERS)}")
    try:
        return read(path)
    except ConfigError:
        raise
    except Exception as error:  # of whatever library reads it
        raise ConfigError(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error


def _torch(path: Path) -> dict[str, Any]:
    import torch

    return dict(_flattened(torch.load(path, map_location="cpu", weights_only=True), ""))


def _flattened(held: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Tensors and id maps of nested state dicts, with dots between the names."""
    if isinstance(held, Mapping) and not all(isinstance(place, int) for place in held.values()):
        for key, value in held.items():
            yield from _flattened(value, f"{prefix}{'.' if prefix else ''}{key}")
    else:
        yield prefix or "the whole", held


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def _npy(path: Path) -> dict[str, Any]:
    held = np.load(path, allow_pickle=False)
    if held.dtype.names == ("id", "values"):
        return {"id": held["id"], "values": held["values"]}
    return {"the whole": held}


def _parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id", "values"])
    ids = table["id"].to_numpy()
    flat = table["values"].combine_chunks().flatten().to_numpy()
    return {"id": ids, "values": flat.reshape(len(ids), -1)}


def _json(path: Path) -> dict[str, Any]:
    import msgspec

    held = msgspec.json.decode(path.read_bytes(), type=list[int | str] | dict[str, int])
    return {"the whole": held}


def _text(path: Path) -> dict[str, Any]:
    return {"the whole": path.read_text(encoding="utf-8").splitlines()}


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".npy": _npy,
    ".parquet": _parquet,
    ".json": _json,
    ".txt": _text,
}


def _is_float(held: Any) -> bool:
    return "float" in str(held.dtype)


def _array(held: Any, what: str) -> Array:
    """A tensor or an array as NumPy's; 16-bit brain floats, which NumPy has not, as float32."""
    if isinstance(held, np.ndarray):
        return held
    try:
        if "bfloat16" in str(held.dtype):
            held = held.float()
        found: Array = held.detach().cpu().numpy()
    except Exception as error:
        raise ConfigError(f"{what} is a {type(held).__name__}, not a plain tensor: {error}") from None
    return found


def _flat(held: Any, name: str) -> Array:
    """Ids or numbers (n,)."""
    found = np.array(held) if isinstance(held, list) else _array(held, name)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise ConfigError(
            f"{name} is {found.dtype} of shape {found.shape}: ids are integers or strings, (n,) or (n, 1)"
        )
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
