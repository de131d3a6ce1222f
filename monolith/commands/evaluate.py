"""``monolith evaluate JOB --on URL``: score samples without learning from them."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from monolith.errors import ConfigError, NoSamplesError

if TYPE_CHECKING:
    from monolith.commands.predictions import PredictionFile
    from monolith.config import JobConfig
    from monolith.streaming.between import Between
    from monolith.tables.kept_strings import KeptStrings
    from monolith.training.evaluation import Bin, Evaluation, Result
    from monolith.training.learner import Learner


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="score samples with a trained model, without learning from them")
    parser.add_argument("job", type=Path, help="the job file (YAML)")
    parser.add_argument("--on", metavar="URL", help="joined samples: parquet://, log:// or kafka://")
    parser.add_argument("--features", metavar="URL", help="feature events to join with --actions (default: the job's)")
    parser.add_argument("--actions", metavar="URL", help="action events")
    parser.add_argument("--from", dest="begin", metavar="TIME", help="only events from this time on (event time)")
    parser.add_argument("--until", metavar="TIME", help="only events before this time")
    parser.add_argument(
        "--snapshot", type=Path, help="the model: a snapshot folder (default: the newest of the job's state folder)"
    )
    parser.add_argument("--by", action="append", default=[], metavar="FEATURE", help="scores by its values; repeatable")
    parser.add_argument("--out", type=Path, metavar="FILE.parquet", help="write each sample's prediction and label")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw predicted against observed, by decile")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the scores; nothing of the job changes."""
    from monolith.commands.moments import between
    from monolith.config.load import load_job

    job = _on(load_job(args.job, args.set), args)
    part = between(args.begin, args.until)
    from monolith.commands.names import Names
    from monolith.training.evaluation import Evaluation

    names = Names(job, args.by)
    evaluation = Evaluation(job.labels, args.by)
    learner, which, kept = load_model(job, args.snapshot)
    names.know(kept)
    _score(job, learner, evaluation, names, part, args.out)
    if not evaluation.samples:
        raise NoSamplesError("there is no sample to score: look at --on, --from and --until")
    found = _found(job, evaluation, names)
    if args.plot is not None:
        from monolith.commands.reliability import draw

        draw(args.plot, f"{job.name}: {evaluation.samples:,} samples", {t: evaluation.bins(i) for i, t in _tasks(job)})
    print(json.dumps(found | {"model": which}, indent=1) if args.json else "\n".join(_lines(found, which)))
    return 0


def _on(job: JobConfig, args: argparse.Namespace) -> JobConfig:
    """The job over the streams that are to be scored: the given ones, or its own."""
    if args.on is not None and (args.features or args.actions):
        raise ConfigError("--on and --features/--actions exclude each other: joined samples, or events to be joined")
    for name in args.by:
        if name not in job.feature_names():
            raise ConfigError(f"--by {name}: no table reads it; features are {', '.join(sorted(job.feature_names()))}")
    streams = job.input
    if args.on is not None:
        streams = msgspec.structs.replace(streams, samples=args.on, features=None, actions=None)
    elif args.features or args.actions:
        streams = msgspec.structs.replace(streams, samples=None, features=args.features, actions=args.actions)
    return msgspec.structs.replace(job, input=streams)


def load_model(job: JobConfig, snapshot: Path | None) -> tuple[Learner, str, KeptStrings | None]:
    """The model of a snapshot, of the newest one of the job, or of what it starts from; which that is; its strings."""
    from monolith.tables.kept_strings import KeptStrings
    from monolith.training.learner import Learner
    from monolith.training.snapshot import STRINGS, Snapshots, open_snapshot
    from monolith.training.start import read_start

    state = Path(job.state)
    kept = open_snapshot(snapshot) if snapshot is not None else Snapshots(state / "snapshots").newest()
    if kept is None and (start := read_start(state)) is not None:
        kept = start.snapshot
    if kept is None:
        raise ConfigError(f"{state} holds no model yet: train or fit the job first, or give --snapshot")
    learner = Learner(job)
    learner.load_tables(kept.path / "tables")
    learner.load_dense_state(kept.read("dense.safetensors"))
    strings = KeptStrings.from_state(kept.read(STRINGS)) if STRINGS in kept.manifest.files else None
    return learner, f"{kept.path}, step {kept.manifest.step}", strings


def _score(
    job: JobConfig, learner: Learner, evaluation: Evaluation, names: Any, part: Between, out: Path | None
) -> None:
    from contextlib import ExitStack

    from monolith.commands.local_stream import Bar
    from monolith.commands.predictions import PredictionFile
    from monolith.streaming.bounded import open_bounded

    with Bar() as bar, ExitStack() as stack:
        reader = stack.enter_context(open_bounded(job, decoder=names.decoder, between=part))
        file: PredictionFile | None = stack.enter_context(PredictionFile(out, job)) if out is not None else None
        ended = False
        while not ended and (step := reader.next(timeout_s=1.0)) is not None:
            if len(step.batch):
                predictions = learner.score(step.batch)
                evaluation.add(step.batch, predictions)
                if file is not None:
                    file.write(step, predictions)
            ended = step.ended
            bar("scoring", evaluation.samples, evaluation.samples + (reader.progress().lag or 0))


def _tasks(job: JobConfig) -> Iterator[tuple[int, str]]:
    return ((place, task.name) for place, task in enumerate(job.labels) if task.loss == "log")


def _found(job: JobConfig, evaluation: Evaluation, names: Any) -> dict[str, Any]:
    """All numbers, as plain values."""
    by = {
        feature: {
            task.name: {
                names.of(feature, one.value): msgspec.structs.asdict(one.scores)
                for one in evaluation.slices(feature, place)
            }
            for place, task in enumerate(job.labels)
        }
        for feature in names.features
    }
    return {
        "samples": evaluation.samples,
        "scores": {task: msgspec.structs.asdict(result) for task, result in evaluation.scores().items()},
        "deciles": {task: [_bin(one) for one in evaluation.bins(place)] for place, task in _tasks(job)},
        "by": by,
    }


def _bin(one: Bin) -> dict[str, float | int]:
    return {"samples": one.samples, "predicted": one.predicted, "observed": one.observed}


def _lines(found: dict[str, Any], which: str) -> Iterator[str]:
    yield f"{found['samples']:,} samples scored with {which}; nothing was learnt"
    for task, scores in found["scores"].items():
        yield f"  {task}: {_numbers(scores)}"
    for task, deciles in found["deciles"].items():
        yield f"  {task} by decile of the prediction:"
        yield "      samples   predicted    observed   predicted/observed"
        for one in deciles:
            ratio = f"{one['predicted'] / one['observed']:.3f}" if one["observed"] else "none observed"
            yield f"    {one['samples']:>9,}   {one['predicted']:.6f}    {one['observed']:.6f}   {ratio}"
    for feature, tasks in found["by"].items():
        for task, slices in tasks.items():
            yield f"  {task} by {feature}, the commonest values:"
            yield from (f"    {value}: {_numbers(scores)}" for value, scores in slices.items())


def scores_text(result: Result) -> str:
    """The scores in one line."""
    return _numbers(msgspec.structs.asdict(result))


SHORT: Sequence[tuple[str, str]] = (
    ("samples", "samples"), ("auc", "AUC"), ("gauc", "GAUC"), ("logloss", "logloss"), ("calibration", "calibration"),
    ("rmse", "RMSE"), ("mae", "MAE"), ("mean_label", "mean label"), ("mean_prediction", "mean prediction"),
)  # fmt: skip


def _numbers(scores: dict[str, Any]) -> str:
    known = [(name, scores[key]) for key, name in SHORT if key in scores]
    return ", ".join(f"{name} {_number(value)}" for name, value in known)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if math.isfinite(value) else "none"
