"""The protocol of embeddings: what a model, its snapshots and its publisher ask of a table of whatever kind.

One embedding is one table of the job. Its *rows* lie in one native table or more, under one optimizer; its *vectors*
are what the network reads. ``monolith.tables.Table`` is an embedding, whose vectors are its rows. ``Vectors``
(`tables.vectors`) is the half that a replica has too, which holds no rows. NumPy only.

To add a kind: its name and keys (`config.table`, `config.kinds`), its reader (`tables.vectors`), and what makes and
opens it (`tables.kinds`). Everything else speaks to what stands here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from monolith.config.table import TableConfig
from monolith.tables.arguments import EventTimes, Ids, Matrix
from monolith.tables.delta import Delta
from monolith.tables.published import HasRows
from monolith.tables.stats import TableStats

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from monolith.tables.batch import Bag
    from monolith.tables.table import Table

    Places = npt.NDArray[np.intp]


class Seen(NamedTuple):
    """What the bags of one output came to in a step."""

    ids: Ids  # (total,), salted where the table keeps features apart
    bag: Bag  # of those ids
    grads: npt.NDArray[np.float32]  # (batch, dim) of the pooled vectors; columns side by side


class EmbeddingStep(Protocol):
    """A training step that was begun: vectors as read, waiting for their gradients.

    ``places`` (m,) says which of the step's n ids have a gradient; None: all. The others get no step.
    """

    @property
    def values(self) -> Matrix:
        """The vectors, (n, dim) float32."""

    def check(self, grads: Matrix, places: Places | None = None) -> None:
        """Raise NonFiniteError where `apply` would, before anything is changed; ``grads`` (n or m, dim) float32."""

    def apply(self, grads: Matrix, places: Places | None = None) -> None:
        """One optimizer step for each unique row, on the sum of its gradients in order of occurrence.

        Of several rows to a vector some may be written before it raises: have `check` pass first.
        """


class Embedding(Protocol):
    """One table of a job, in training. Calls that change it come one at a time; look-ups may run beside them."""

    @property
    def config(self) -> TableConfig:
        """What the table is; its features, pooling, optimizer and rules."""

    @property
    def dim(self) -> int:
        """Width of a vector, or of one of the rows that lie side by side in it."""

    def width(self, feature: str) -> int:
        """Width of the vectors that ``feature`` reads."""

    @property
    def sequence(self) -> int:
        """The number that the next `cut` will close."""

    @property
    def clock_ms(self) -> int:
        """The clock in event time; WATERMARK_START before the first event."""

    @property
    def largest_gradient(self) -> float:
        """The largest size in a gradient that the optimizer bears."""

    @property
    def one_table(self) -> Table | None:
        """The native table whose rows, by ``keys``, are the vectors or lie side by side in them; None: there is none.

        All such tables of a model are stepped in one native call (`tables.collection`).
        """

    def keys(self, feature: str, ids: Ids) -> list[Ids]:
        """The keys in ``one_table`` of a feature's ids (n,), which for a table of several features are salted.

        (n,) int64 for each of the rows that lie side by side in a vector.
        """

    @property
    def watches(self) -> bool:
        """Whether the table wants to be told of its ids' gradients, by ``watch``."""

    def watch(self, seen: Callable[[], Sequence[Seen]]) -> None:
        """The rows took a step, which ``seen`` says: of the table's outputs that have a gradient, in order."""

    def __len__(self) -> int:
        """Rows held."""

    def lookup(self, ids: Ids) -> Matrix:
        """The vectors of ids (n,), as (n, dim) float32. Changes nothing. See `lookup_of` where widths differ."""

    def lookup_of(self, feature: str, ids: Ids) -> Matrix:
        """The vectors of a feature's ids (n,), salted as for ``keys``: (n, width) float32. Changes nothing."""

    def begin(self, ids: Ids, *, event_time_ms: EventTimes = None) -> EmbeddingStep:
        """Observe ids (n,) and read their vectors: the first half of a training step.

        ``event_time_ms`` is one time, one for each id (n,) int64, or None: the clock stands. Raises InputError before
        anything is changed.
        """

    def advance(self, watermark_ms: int) -> None:
        """Move the clock up to ``watermark_ms``; it never goes back."""

    def sweep(self, *, max_rows: int) -> int:
        """Remove what expired, with bounded work; how many rows went."""

    def cut(self) -> int:
        """Close the current sequence and return its number."""

    def deltas(self, since: int) -> dict[str, Delta]:
        """What changed after sequence ``since`` (0: everything), by the name under which it is published.

        Raises GapError where that is no longer known; the image, 0, is always there.
        """

    def published(self) -> dict[str, HasRows]:
        """All rows as they are, by the name under which they are published."""

    def num_bytes(self) -> int:
        """Bytes of memory that answers take: rows with the words beside them, and what finds a row.

        Optimizer states are not needed to answer, nor are counters and tombstones; `stats` has them.
        """

    def stats(self) -> TableStats:
        """What is held, what that takes, and what has happened."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the whole state below ``folder``, fsynced; `tables.kinds.open_embedding` reads it. Raises OSError.

        Equal states give equal bytes.
        """
