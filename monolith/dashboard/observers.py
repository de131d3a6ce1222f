"""Who looks on while a job trains: the curves, which are always kept, the live page, and TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from monolith.config import JobConfig
from monolith.training.curves import NAME, Curves
from monolith.training.status import Status

log = logging.getLogger(__name__)

Observer = Callable[[Status], None]


@contextmanager
def observing(job: JobConfig, address: str | None = None, tensorboard: Path | None = None) -> Iterator[list[Observer]]:
    """The observers of one process's statuses; ``address``: of the live page, ``[HOST:]PORT``, if there is to be one.

    Raises ConfigError for an address that cannot be listened at, and where TensorBoard is asked for and missing.
    """
    curves = Curves(Path(job.state) / NAME)
    observers: list[Observer] = [curves]
    with ExitStack() as stack:
        if address is not None:
            from monolith.dashboard.server import Dashboard

            page = stack.enter_context(Dashboard(address, curves))
            log.info("live page at %s, /metrics and /health beside it", page.url)
            observers.append(page)
        if tensorboard is not None:
            from monolith.dashboard.tensorboard import TensorBoard

            observers.append(stack.enter_context(TensorBoard(tensorboard)))
        yield observers
