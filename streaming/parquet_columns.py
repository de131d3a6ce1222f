"""Which columns a ``parquet://`` URL names, and for what; the options are explained in `parquet`."""

from __future__ import annotations

from dataclasses import dataclass

from monolith.errors import ConfigError
from monolith.streaming.source import StreamUrl


@dataclass(frozen=True, slots=True)
class Columns:
    """The column behind each part of an event."""

    time: str
    item: str
    request: str | None
    label: str | None  # the one label's
    weight: str | None
    action: str | None
    features: dict[str, str]  # feature -> column
    labels: dict[str, str]  # task -> column, where labels are by task
    weights: dict[str, str]

    def names(self) -> list[str]:
        """The columns to read, each once."""
        single = [self.time, self.item, self.request, self.label, self.weight, self.action]
        named = [*self.features.values(), *self.labels.values(), *self.weights.values()]
        return list(dict.fromkeys([name for name in single if name is not None] + named))


def columns_of(url: StreamUrl) -> Columns:
    """Raises ConfigError for options that are missing, or do not go together."""
    options = url.options
    for needed in ("time", "item"):
        if needed not in options:
            raise ConfigError(f"{url.text}: {needed}=COLUMN is missing; see docs/formats.md for the options")
    if "label" in options and "action" in options:
        raise ConfigError(f"{url.text}: a row is either a sample (label) or an action (action), not both")
    features = {}
    for part in filter(None, options.get("features", "").split(",")):
        name, _, column = part.partition(":")
        features[name] = column or name
    label, labels = _by_task(url, "label")
    weight, weights = _by_task(url, "weight")
    if labels and "threshold" in options:
        raise ConfigError(f"{url.text}: threshold makes one label of 0 and 1, and label names columns by task")
    if "weight" in options and "label" not in options:
        raise ConfigError(f"{url.text}: weight is that of a label, and there is no label=COLUMN")
    return Columns(
        options["time"],
        options["item"],
        options.get("request"),
        label,
        weight,
        options.get("action"),
        features,
        labels,
        weights,
    )


def _by_task(url: StreamUrl, option: str) -> tuple[str | None, dict[str, str]]:
    """The one column that ``option`` names, or its columns by task."""
    text = url.options.get(option)
    if text is None or not ("," in text or ":" in text):
        return text, {}
    parts = [part.partition(":") for part in text.split(",")]
    named = {task: column or task for task, _, column in parts}
    if len(named) != len(parts) or "" in named:
        raise ConfigError(f"{url.text}: {option}={text} must name each task once, as TASK:COLUMN,TASK:COLUMN")
    return None, named
