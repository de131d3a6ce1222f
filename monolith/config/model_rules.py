"""Which widths, dense features and tasks each model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MULTI_TASK_MODELS = ("deepfm", "dlrm")


def width_faults(kind: str, dims: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What the model ``kind`` does not take of tables or vectors with these ``dims``: (name, what is wrong)."""
    wide = [name for name, dim in dims.items() if dim > 1 or kind not in ("lr", "deepfm")]
    for name, dim in dims.items():
        if kind == "lr" and dim != 1:
            yield name, f"the model lr takes one weight an id: dim 1; saw {dim}"
        elif kind == "fm" and dim < 2:
            yield name, f"the model fm takes a weight and a vector an id: dim >= 2; saw {dim}"
        elif kind == "deepfm" and not wide:
            yield (
                name,
                f"the model deepfm takes a weight and a vector an id, in one table at least: dim >= 2; saw {dim}",
            )
        elif name in wide and dim != dims[wide[0]]:
            besides = ", besides those of dim 1" if kind == "deepfm" else ""
            text = f"the model {kind} takes tables of one dim{besides}; saw {dim}, but {wide[0]!r} has {dims[wide[0]]}"
            yield name, text


def part_faults(kind: str, *, has_dense: bool, tasks: int) -> Iterator[str]:
    """What the model ``kind`` does not take besides widths."""
    if kind == "dlrm" and not has_dense:
        yield "the model dlrm reads dense features with its bottom MLP, and there is none; give one, or take deepfm"
    if tasks > 1 and kind not in MULTI_TASK_MODELS:
        yield f"the model {kind} has one output, there are {tasks} tasks; allowed: {' and '.join(MULTI_TASK_MODELS)}"
