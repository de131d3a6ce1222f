"""Which widths, dense features, tasks and settings each model takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from monolith.config.document import describe, nearest
from monolith.config.job import ModelConfig
from monolith.config.table import TableConfig

_OF_AN_MLP = ("hidden", "activation", "norm", "dropout")
MODEL_SETTINGS = {  # kind -> what it reads of ModelConfig besides what every kind does
    "lr": ("hidden",),  # without effect; job files have always been allowed to say it
    "fm": ("hidden",),
    "deepfm": _OF_AN_MLP,
    "widedeep": _OF_AN_MLP,
    "mlp": _OF_AN_MLP,
    "dcnv2": (*_OF_AN_MLP, "cross_layers", "cross_rank"),
    "dlrm": (*_OF_AN_MLP, "bottom"),
}
MODEL_KINDS = tuple(MODEL_SETTINGS)
ONE_TASK_MODELS = ("lr", "fm")
OWN = "MODULE:CLASS"

_FOR_ALL = ("kind", "embedding_l2")
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_OF_WEIGHTS = ("lr", "deepfm", "widedeep")  # that read tables of dim 1
_OF_ANY_WIDTH = ("widedeep", "mlp", "dcnv2")
_ADDING = ("lr", "fm", "deepfm")  # that add up the features' vectors, or products of them
_ADDED = {"widedeep": 1}  # vectors of this width alone


def is_own(kind: str) -> bool:
    """Whether ``kind`` names a class of the user's: ``package.module:Class``."""
    return _OWN.fullmatch(kind) is not None


def setting_faults(model: ModelConfig) -> Iterator[tuple[str, str]]:
    """A kind that is none, and settings that the kind does not read: (key, what is wrong)."""
    if model.kind not in MODEL_KINDS and not is_own(model.kind):
        allowed = ", ".join(MODEL_KINDS)
        yield (
            "kind",
            f"saw {describe(model.kind)}{nearest(model.kind, list(MODEL_KINDS))}; allowed: {allowed}, or {OWN}",
        )
        return
    read = (*_FOR_ALL, *MODEL_SETTINGS.get(model.kind, ("options",)))
    plain = ModelConfig()
    for key in model.__struct_fields__:
        if key not in read and getattr(model, key) != getattr(plain, key):
            readers = [kind for kind, keys in MODEL_SETTINGS.items() if key in keys] or [OWN]
            yield key, f"the model {model.kind} does not read it; leave it out, or take {' or '.join(readers)}"


def width_faults(kind: str, dims: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What the model ``kind`` does not take of tables or vectors with these ``dims``: (name, what is wrong)."""
    if is_own(kind):
        return
    yield from _missing_parts(kind, dims)
    wide = [name for name, dim in dims.items() if dim > 1 or kind not in _OF_WEIGHTS]
    for name, dim in dims.items():
        if kind == "lr" and dim != 1:
            yield name, f"the model lr takes one weight an id: dim 1; saw {dim}"
        elif kind == "fm" and dim < 2:
            yield name, f"the model fm takes a weight and a vector an id: dim >= 2; saw {dim}"
        elif kind not in _OF_ANY_WIDTH and name in wide and dim != dims[wide[0]]:
            besides = ", besides those of dim 1" if kind == "deepfm" else ""
            text = f"the model {kind} takes tables of one dim{besides}; saw {dim}, but {wide[0]!r} has {dims[wide[0]]}"
            yield name, text


def sharing_faults(kind: str, tables: Sequence[TableConfig]) -> Iterator[tuple[str, str]]:
    """Unified tables whose features the model ``kind`` adds up: (name, what is wrong).

    Where vectors of two features share a row and are added, nothing behind them can tell the features apart: the row
    gets the same gradient from both. Of a class of the user's nothing is known.
    """
    for table in tables:
        added = [
            name for name in table.feature_names() if kind in _ADDING or table.vector_width(name) == _ADDED.get(kind)
        ]
        if table.kind == "unified" and len(added) > 1:
            yield (
                table.name,
                f"the model {kind} adds the vectors of {', '.join(added)}, and features that are added may not share "
                f"rows; give each a table of its own, or take a model that does not add them: mlp, dcnv2, dlrm",
            )


def _missing_parts(kind: str, dims: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if kind == "deepfm" and all(dim == 1 for dim in dims.values()):
        text = "the model deepfm takes a weight and a vector an id, in one table at least: dim >= 2; saw 1"
        yield from ((name, text) for name in dims)
    elif kind == "widedeep" and len({dim == 1 for dim in dims.values()}) == 1:
        seen = ", ".join(map(str, sorted(set(dims.values()))))
        yield (
            next(iter(dims)),
            f"the model widedeep takes tables of dim 1 for its wide part and others for its deep part, one of each at "
            f"least; saw {seen}; take mlp for a deep part alone, lr for a wide one",
        )


def part_faults(kind: str, *, has_dense: bool, tasks: int) -> Iterator[str]:
    """What the model ``kind`` does not take besides widths."""
    if kind == "dlrm" and not has_dense:
        yield "the model dlrm reads dense features with its bottom MLP, and there is none; give one, or take deepfm"
    if tasks > 1 and kind in ONE_TASK_MODELS:
        several = [other for other in MODEL_KINDS if other not in ONE_TASK_MODELS]
        yield f"the model {kind} has one output, there are {tasks} tasks; allowed: {', '.join(several)}, or {OWN}"
