"""The curves of a run as TensorBoard reads them: an optional extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from monolith.errors import ConfigError
from monolith.training.curves import Point, point_of
from monolith.training.status import Status


class TensorBoard:
    """Writes the numbers of each status, by samples trained. A context manager."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where the package ``tensorboard`` is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"--tensorboard needs the package tensorboard ({error}): pip install tensorboard"
            ) from None
        self._writer = SummaryWriter(str(folder))

    def __call__(self, status: Status) -> None:
        """Write it."""
        point = point_of(status)
        for name, value in numbers(point):
            self._writer.add_scalar(name, value, point.samples, walltime=point.time_ms / 1000)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def numbers(point: Point) -> Iterator[tuple[str, float]]:
    """Every number of a point under a name of its own; TensorBoard groups them by what stands before the slash."""
    for task, spans in point.scores.items():
        for span, scores in spans.items():
            yield from ((f"{task}.{span}/{metric}", value) for metric, value in scores.items())
    for table, stats in point.tables.items():
        yield from ((f"{name}/{table}", getattr(stats, name)) for name in stats.__struct_fields__)
    yield "run/samples_per_s", point.samples_per_s
    yield "run/watermark_lag_s", point.watermark_lag_ms / 1000
    if point.lag is not None:
        yield "run/lag", point.lag
    if point.freshness_ms is not None:
        yield "run/freshness_s", point.freshness_ms / 1000
    yield from ((f"left_out/{what}", count) for what, count in point.left_out.items())
