"""From a job's ``input`` section to its open streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from monolith.config import JobConfig
from monolith.errors import ConfigError
from monolith.streaming.codec import FeatureDecoder
from monolith.streaming.codec import Stream as StreamName
from monolith.streaming.lanes import Inlet
from monolith.streaming.source import Source, open_source, parse_url


def open_inlets(
    job: JobConfig,
    decoder: FeatureDecoder | None = None,
    *,
    inlet: type[Inlet] = Inlet,
    owns: Callable[[int], bool] | None = None,
) -> list[Inlet]:
    """The streams that the job names; at one instant features come before actions. ``decoder``: one unlike the job's.

    ``owns``: which partitions will be polled, where not all are.

    Raises ConfigError for a URL that cannot be, for a combination of streams that makes no samples, and for a stream
    that is not there, unless the job follows it and so waits.
    """
    names: tuple[StreamName, ...] = get_args(StreamName)
    urls: dict[StreamName, str] = {name: url for name in names if (url := getattr(job.input, name)) is not None}
    if set(urls) not in ({"features", "actions"}, {"samples"}):
        raise ConfigError(f"job {job.name!r} needs input.features and input.actions, or input.samples alone")
    inlets: list[Inlet] = []
    try:
        for name, url in urls.items():
            source = open_source(
                url, wait=job.input.follow, on_data_loss=job.input.on_data_loss, group=job.name, owns=owns
            )
            inlets.append(_inlet(job, name, names.index(name), source, decoder, inlet))
    except BaseException:
        for opened in inlets:
            opened.source.close()
        raise
    return inlets


def _inlet(
    job: JobConfig, name: StreamName, number: int, source: Source, decoder: FeatureDecoder | None, kind: type[Inlet]
) -> Inlet:
    parsed = parse_url(getattr(job.input, name))
    if decoder is None and parsed.scheme == "parquet" and "label" in parsed.options and name == "samples":
        from monolith.streaming.parquet import ParquetSource
        from monolith.streaming.parquet_samples import ParquetSamples

        assert isinstance(source, ParquetSource)
        return ParquetSamples(number, source, FeatureDecoder(job), job.input)
    in_order = parsed.scheme != "parquet"  # rows of a file may be in any order
    return kind(name, number, source, decoder or FeatureDecoder(job), in_order=in_order)
