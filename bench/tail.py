"""What a hashed tail brings in AUC where rare ids have no rows: MovieLens under min_count admission, with and without.

    python bench/tail.py [--data ml100k|ml1m] [--folder PATH] [--seeds N] [--epochs N] [--count N] [--rows N]

A factorization machine (a weight and a vector of 16 an id, Adagrad, one table of users and one of movies) learns from
four fifths of the ratings, in an order of the seed's, whether a rating is 4 or more; AUC is on the last fifth. An id
gets a row at its `count`-th occurrence. The same is learned by tables whose absent ids read zeros, and by tails of 1
and of `rows` rows, from which an admitted id starts or does not. A line gives the mean AUC, and the difference to zeros
of the same seed: mean, standard error, range; first over all of the test's ratings, then over those whose user or movie
has no row. Ratings are read from ../shared/data or --folder; they are not part of the project, and without them there
is nothing to run, and it says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from storage import DATA, auc, ratings

from monolith.tables import Table, TableConfig, absent, admission, optimizers

DIM, BATCH, LR = 17, 512, 0.05
ZEROS = "absent ids read zeros"

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Tables = tuple[Table, Table]


def main() -> None:
    """Train every rule on every seed and print the differences."""
    options = parse()
    path = Path(options.folder) / options.data / "ratings.parquet"
    if not path.exists():
        print(f"skipped: it needs the MovieLens ratings in {path}, which cannot be redistributed")
        return
    ids, labels = ratings(path)
    ids[:, 1] = -1 - ids[:, 1]  # movies have a table of their own here
    print(
        f"{options.data}: {len(labels):,} ratings, {options.seeds} seeds, {options.epochs} epochs, "
        f"min_count {options.count}"
    )
    zeros = np.zeros((options.seeds, 3))
    for name, rule in rules(options.rows).items():
        results = [run(ids, labels, options.count, rule, seed, options.epochs) for seed in range(options.seeds)]
        if name == ZEROS:
            zeros = np.array(results)
        print(text(name, np.array(results), zeros))


def rules(rows: int) -> dict[str, absent.Absent]:
    """What is compared, by name; zeros first."""
    named: dict[str, absent.Absent] = {ZEROS: absent.AbsentZeros()}
    for number in (1, rows):
        for start in (False, True):
            name = f"tail of {number}{', rows start from it' if start else ''}"
            named[name] = absent.HashedTail(rows=number, start_from_tail=start)
    return named


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["ml1m", "ml100k"], default="ml100k")
    parser.add_argument("--folder", default=str(DATA), help="where <data>/ratings.parquet is")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--count", type=int, default=50, help="occurrences until an id has a row")
    parser.add_argument("--rows", type=int, default=64, help="of the larger tail")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    return options


def run(ids: Ids, labels: Floats, count: int, rule: absent.Absent, seed: int, epochs: int) -> tuple[float, ...]:
    """AUC of one training: of all, of the test's ratings with an absent id; and their share."""
    rng = np.random.default_rng(seed)
    train, test = np.split(rng.permutation(len(labels)), [len(labels) * 4 // 5])
    rules = {"optimizer": optimizers.Adagrad(lr=LR), "admission": admission.MinCount(count), "absent": rule}
    user, movie = (Table(TableConfig(name=name, dim=DIM, seed=seed, **rules)) for name in ("user", "movie"))
    for _ in range(epochs):
        for batch in np.split(train, range(BATCH, len(train), BATCH)):
            step((user, movie), ids[batch], labels[batch])
        train = rng.permutation(train)
    scores = logits(user.lookup(ids[test, 0].copy()), movie.lookup(ids[test, 1].copy()))
    known = np.isin(ids[test, 0], user.rows()[0]) & np.isin(ids[test, 1], movie.rows()[0])
    return auc(labels[test], scores), auc(labels[test][~known], scores[~known]), float((~known).mean())


def step(tables: Tables, ids: Ids, labels: Floats) -> None:
    """One step on the mean loss of a batch, its ids (n, 2)."""
    steps = [table.step(ids[:, k].copy()) for k, table in enumerate(tables)]
    user, movie = (step.values for step in steps)
    error = ((1 / (1 + np.exp(-logits(user, movie))) - labels) / len(labels)).astype(np.float32)[:, None]
    for own, other in ((steps[0], movie), (steps[1], user)):
        grads = other.copy()
        grads[:, 0] = 1
        own.apply_gradients(grads * error)


def logits(user: Floats, movie: Floats) -> Floats:
    """The score of each pair of rows (n, dim), (n,)."""
    return user[:, 0] + movie[:, 0] + (user[:, 1:] * movie[:, 1:]).sum(axis=1)


def text(name: str, results: npt.NDArray[np.float64], zeros: npt.NDArray[np.float64]) -> str:
    """One line of the report; ``results`` are (seeds, 3), as ``run`` gives them."""
    lines = [f"  {name}"]
    shares = (1.0, results[:, 2].mean())
    for column, what in enumerate(("all", "absent")):
        line = f"    {what:7s} ({shares[column]:6.1%})  AUC {results[:, column].mean():.5f}"
        if name != ZEROS:
            differences = results[:, column] - zeros[:, column]
            error = differences.std(ddof=1) / len(differences) ** 0.5
            spread = f"+- {error:.5f}, {differences.min():+.5f} to {differences.max():+.5f}"
            line += f"   to zeros {differences.mean():+.5f} ({spread})"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
