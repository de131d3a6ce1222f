"""A rank of a job that kills itself once it has staged its part of a sequence: ``rank_dies.py SEQUENCE COMMAND...``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from monolith.cli import main
from monolith.serving.lmdb_store import LmdbStore
from monolith.serving.redis_store import RedisStore


def dying(stage: Any, sequence: int) -> Any:
    def staged(store: Any, ticket: Any, *part: Any) -> Any:
        receipt = stage(store, ticket, *part)
        if ticket.sequence == sequence:
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt

    return staged


if __name__ == "__main__":
    for kind in (LmdbStore, RedisStore):
        kind.stage = dying(kind.stage, int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
