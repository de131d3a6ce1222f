"""From deltas to answers: the stores that hold a model, the publisher that fills them, the replicas that serve them.

Read in this order to follow one delta: ``publisher`` (the trainer's end), ``payload`` and ``packed`` (the form of its
rows), ``wire`` (its bytes), ``ledger`` (which deltas a store takes), ``store`` with ``lmdb_store`` and ``redis_store``,
``staging`` and ``staged`` (a delta that several processes hand in), ``follower`` and ``replica`` (the serving end),
``predictor``, then ``server`` with ``answers``, and ``client`` with ``asking`` (the same over HTTP).
``parity`` proves the two ends equal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "monolith.serving":
    raise ImportError(f"import monolith.serving, not {__name__}: top-level 'serving' is only a folder of the checkout")

if TYPE_CHECKING:
    from monolith.serving.async_client import AsyncClient
    from monolith.serving.client import Client
    from monolith.serving.parity import compare
    from monolith.serving.publisher import Publisher
    from monolith.serving.replica import Replica
    from monolith.serving.server import serve
    from monolith.serving.store import Store, open_store

# Loaded on first use: a client needs no onnxruntime, a trainer no web server.
_HOMES = {
    "AsyncClient": "async_client",
    "Client": "client",
    "Publisher": "publisher",
    "Replica": "replica",
    "Store": "store",
    "compare": "parity",
    "open_store": "store",
    "serve": "server",
}

__all__ = ["AsyncClient", "Client", "Publisher", "Replica", "Store", "compare", "open_store", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"monolith.serving has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"monolith.serving.{_HOMES[name]}"), name)
