"""The data sets that have names: for each the files it is made of, what becomes of them, and whose they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from monolith.datasets.ml100k_origin import TERMS as ML100K_TERMS
from monolith.datasets.ml100k_origin import cache_folder
from monolith.datasets.sets import clicks, frappe, movielens, own, own_rows, own_rules, trivago
from monolith.datasets.sets.about import ABOUT
from monolith.datasets.sets.description import Column, DataSet, Form, Split
from monolith.datasets.sets.movielens import Rule
from monolith.datasets.sets.planted import Planted, planted
from monolith.errors import ConfigError

_GROUPLENS = " ".join(ML100K_TERMS.split()).replace("MovieLens 100K, by GroupLens", "MovieLens, by GroupLens")
_MOVIE_FEATURES = (
    Column("user"),
    Column("movie"),
    Column("gender", "string"),
    Column("age"),
    Column("occupation", "string"),
    Column("zip", "string"),
    Column("genres", "string"),
)
_ML1M_FEATURES = tuple(Column("occupation") if one.name == "occupation" else one for one in _MOVIE_FEATURES)
_RATED_4 = "rating >= 4"


def _ml100k() -> DataSet:
    rule = Rule()
    sums = {
        "ratings.parquet": "6153f57982a0a231955f1987130b74ef381503aa9669a19449a74ab6a7f39fcf",
        "users.parquet": "35f7088822be253fc23eb5a66c0735688e0ffd25b09c53cbb3d119642fe73231",
        "movies.parquet": "69e144c011212868f6ae12042ddf186dfcf204ddc8b2c7cb3ec901215c564ce3",
    }
    kept = {"ratings.tsv": "f4555b8e3a89b4068229ae5c8ca7eaa12c27fd3b0a38a2fbc0b58789d228438e"}
    forms = (
        Form(tuple(sums), partial(movielens.from_parquet, rule=rule), sums),
        Form(("ratings.tsv", "users.tsv", "movies.tsv"), partial(movielens.from_text, rule=rule, suffix="tsv"), kept),
    )
    title = "MovieLens 100K: 100,000 ratings of 1997 and 1998"
    return DataSet(
        "ml-100k", title, _GROUPLENS, _MOVIE_FEATURES, "movie", "user", Split("time"), _RATED_4, forms, folder="ml-100k"
    )


def _ml1m(name: str, title: str, rule: Rule, split: Split, label: str, time: str) -> DataSet:
    sums = {
        "ratings.parquet": "8f79a7f0d663161d7af647f5bdaa33bd9c781d6a9da0a5c9e19dd801fad87b5b",
        "users.parquet": "5c21a6af374d35e2e15b426d94c0b2017513a6233f21be290e3dc278f5569347",
        "movies.parquet": "deb6c321dc6dc5713a85b4e3276d086ddcd4bcfce1185f62b33b588a0b2f4cdb",
    }
    forms = (
        Form(tuple(sums), partial(movielens.from_parquet, rule=rule), sums, 1_000_209),
        Form(
            ("ratings.dat", "users.dat", "movies.dat"),
            partial(movielens.from_text, rule=rule, suffix="dat"),
            lines=1_000_209,
        ),
    )
    features = tuple(one for one in _ML1M_FEATURES if one.name in ("user", "movie", *rule.user, *rule.movie))
    title = f"MovieLens 1M: 1,000,209 ratings{title}"
    timed = rule.by_arrival
    return DataSet(name, title, _GROUPLENS, features, "movie", "user", split, label, forms, time, timed, "ml-1m")


def _ml25m() -> DataSet:
    rule = Rule(liked=3.5, user=())
    form = Form(("ratings.csv", "movies.csv"), partial(movielens.from_csv, rule=rule))
    features = (Column("user"), Column("movie"), Column("genres", "string"))
    title = "MovieLens 25M: 25,000,095 ratings of 1995 to 2019"
    return DataSet("ml-25m", title, _GROUPLENS, features, "movie", "user", Split("time"), "rating >= 3.5", (form,))


def _trivago(name: str, title: str, form: Form) -> DataSet:
    terms = (
        "Data of the RecSys Challenge 2019 by trivago, released for research; the copy at hand states no terms. Cite: "
        "P. Knees, Y. Deldjoo, F. B. Moghaddam, J. Adamczak, G.-P. Leyson, P. Monreal. RecSys Challenge 2019."
    )
    label = "the item of the list that was clicked out"
    return DataSet(name, title, terms, trivago.FEATURES, "item", "user", Split("lists"), label, (form,))


def _criteo(name: str, title: str, forms: tuple[Form, ...], split: Split, time: str) -> DataSet:
    terms = "Criteo's, under the terms of the Display Advertising Challenge: research, no redistribution."
    numbers = tuple(Column(one) for one in clicks.CRITEO_NUMBERS)
    features = numbers + tuple(Column(one, "string") for one in clicks.CRITEO_WORDS)
    return DataSet(name, title, terms, features, "C3", "C3", split, "click", forms, time, timed=False)


def _criteo8k() -> DataSet:
    described = own_rules.Own(
        name="criteo8k",
        files=["impressions.parquet"],
        label=own_rules.LabelRule(column="label"),
        features=[
            *(own_rules.FeatureRule(name=one, bucket="log_squared") for one in clicks.CRITEO_NUMBERS),
            *(own_rules.FeatureRule(name=one) for one in clicks.CRITEO_WORDS),
        ],
        item="C3",
        group="C3",
        part=own_rules.PartRule(column="part", valid="dev"),
        split=Split("given"),
    )
    sums = {"impressions.parquet": "213a05a43138840032e648fcd76a821a356534dc6607a7022a4c99b74ef36e25"}
    kinds: own_rows.Kinds = {one.name: ("int" if one.bucket else "string", False) for one in described.rules()}
    form = Form(tuple(described.files), partial(own_rows.read, described, kinds), sums)
    title = "8,000 of Criteo's impressions: a format and smoke set, never to rank models on"
    return _criteo("criteo8k", title, (form,), described.split, "none; the order of the rows")


def _avazu() -> DataSet:
    terms = "Avazu's, under the terms of the Click-Through Rate Prediction challenge: research, no redistribution."
    features = (Column("hour"), *(Column(one, "string") for one in clicks.AVAZU_WORDS))
    names = ("train.csv", "train.gz", "train.csv.gz")
    forms = tuple(Form((name,), partial(clicks.avazu, name=name), lines=40_428_967) for name in names)
    title = "Avazu: 40,428,967 impressions of ten days"
    return DataSet("avazu", title, terms, features, "site_id", "device_ip", Split("time"), "click", forms)


def _kuairand() -> DataSet:
    terms = (
        "KuaiRand by Kuaishou and USTC, CC BY-SA 4.0. Cite: C. Gao et al. 2022. KuaiRand: An Unbiased Sequential "
        "Recommendation Dataset with Randomly Exposed Videos. CIKM '22."
    )
    names = ("user", "video", "tab", "duration", "hour")
    form = Form(("log_standard_*.csv",), clicks.kuairand)
    title = "KuaiRand, Pure, 1K or 27K: videos that were shown by the ordinary policy"
    features = tuple(map(Column, names))
    return DataSet("kuairand", title, terms, features, "video", "user", Split("time"), "is_click", (form,))


def _frappe() -> DataSet:
    terms = (
        "Frappe by L. Baltrunas et al. 2015 (Frappe: Understanding the Usage and Perception of Mobile App "
        "Recommendations In-The-Wild); negatives drawn by X. He and T.-S. Chua 2017. For research."
    )
    files = ("frappe.train.libfm", "frappe.validation.libfm", "frappe.test.libfm")
    form = Form(files, frappe.libfm, lines=288_609)
    features = tuple(map(Column, frappe.FIELDS))
    title = "Frappe: 288,609 uses and non-uses of apps in context"
    none = "none; the order of the lines"
    return DataSet("frappe", title, terms, features, "item", "user", Split("given"), "the app was used", (form,), none)


def generated(settings: Planted) -> DataSet:
    """The planted click log of these settings."""
    features = (Column("user"), Column("item"), Column("context"))
    title = f"{settings.rows:,} clicks and non-clicks with planted structure, seed {settings.seed}"
    form = Form((), partial(planted, settings))
    terms = "Generated here; nobody's data."
    return DataSet("planted", title, terms, features, "item", "user", Split("time"), "click", (form,))


def _all() -> dict[str, DataSet]:
    arrival = "a proxy of arrival: users by descending id, each with all ratings in the order of the file"
    sets = [
        _ml100k(),
        _ml1m("ml-1m", ", split at random", Rule(), Split("random"), _RATED_4, "none; the order of the rows"),
        _ml1m("ml-1m-arrival", ", users in order of arrival", Rule(by_arrival=True), Split("time"), _RATED_4, arrival),
        _ml1m(
            "ml-1m-likes",
            " without those of 3, split at random",
            Rule(dropped=(3.0,), movie=()),
            Split("random"),
            "rating >= 4, ratings of 3 left out",
            "none; the order of the rows",
        ),
        _ml25m(),
        _trivago("trivago", "Hotel lists of trivago, two days of November 2018", _TRIVAGO),
        _trivago("recsys-2019", "Hotel lists of trivago, from the whole session log", _RECSYS),
        _criteo8k(),
        _criteo("criteo-kaggle", "Criteo Kaggle: 45,840,617 impressions of a week", _CRITEO, Split("time"), "lines"),
        _avazu(),
        _frappe(),
        _kuairand(),
        generated(Planted()),
    ]
    return {one.name: one for one in sets}


_TRIVAGO = Form(
    ("impressions.parquet",),
    trivago.from_impressions,
    {"impressions.parquet": "e2b2ba90e7ce5b80f93699db3c98202c3031b14280c64d12666a88ab5160ee32"},
)
_RECSYS = Form(("train.csv",), trivago.from_sessions)
_CRITEO = tuple(
    Form((name,), partial(clicks.criteo, name=name), lines=45_840_617) for name in ("train.txt", "train.txt.gz")
)

SETS = _all()


def find(name: str, folder: Path | None = None) -> tuple[DataSet, Path]:
    """A set by name, or by the path of a description file, and the folder where its files are.

    ``folder`` None: below ``$MONOLITH_DATA`` (or ``~/.cache/monolith``). Raises ConfigError.
    """
    if name.endswith((".yaml", ".yml")):
        described, beside = own.load(Path(name), folder)
        if described.name in SETS:
            raise ConfigError(f"{name}: name is {described.name!r}, which `monolith data list` has; choose another one")
        return described, beside
    if name not in SETS:
        known = ", ".join(SETS)
        raise ConfigError(f"there is no data set {name!r}; allowed: {known}, or a description file (.yaml)")
    data = SETS[name]
    return data, folder or cache_folder() / (data.folder or data.name)


def prepared_folder(name: str) -> Path:
    """Where a prepared set is kept if no other place is said."""
    return cache_folder() / "prepared" / name


def prepared_set(name: str) -> Path:
    """The folder of a prepared set: ``name`` itself where it is one, or that which is kept under the name."""
    folder, kept = Path(name), prepared_folder(name)
    is_kept = name in SETS or (kept / ABOUT).is_file()
    return kept if is_kept and not (folder / ABOUT).is_file() else folder
