"""Collisionless embedding tables: id -> row, with admission, optimizers, expiry and eviction, in a native core.

from monolith.tables import Table, TableConfig, admission, expiry, optimizers

table = Table(TableConfig(name="user", dim=16, optimizer=optimizers.Adagrad(lr=0.05),
                          admission=admission.MinCount(3), expiry=expiry.Idle(ttl_s=7 * 86400), seed=1))
table.observe(ids, event_time_ms=t)
vectors = table.lookup(ids)
table.apply_gradients(ids, grads)
"""

if __name__ != "monolith.tables":
    raise ImportError(f"import monolith.tables, not {__name__}: top-level 'tables' is only a folder of the checkout")

from monolith.config import absent, admission, expiry, initializers, memory, optimizers
from monolith.config.table import FeatureRules, TableConfig
from monolith.tables import eviction
from monolith.tables.buckets import Buckets
from monolith.tables.delta import Delta, ModelDelta
from monolith.tables.dense import from_dense, to_dense
from monolith.tables.snapshot import TableFile
from monolith.tables.split import Owners, Split
from monolith.tables.stats import TableStats
from monolith.tables.table import Table
from monolith.tables.threads import set_threads, threads

__all__ = [
    "Buckets",
    "Delta",
    "FeatureRules",
    "ModelDelta",
    "Owners",
    "Split",
    "Table",
    "TableConfig",
    "TableFile",
    "TableStats",
    "absent",
    "admission",
    "eviction",
    "expiry",
    "from_dense",
    "initializers",
    "memory",
    "optimizers",
    "set_threads",
    "threads",
    "to_dense",
]
