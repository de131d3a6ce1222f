"""The job file as typed structs. Every default of the system is here or in ``monolith.config.table``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from monolith.config.features import FeatureConfig
from monolith.config.fit import FitConfig
from monolith.config.labels import TaskConfig
from monolith.config.limits import Count, Decay, LateText, NonNegative, Positive, Share, ShareOrNone
from monolith.config.sharding import ShardingConfig
from monolith.config.table import TableConfig

Payload = Literal["float32", "float16", "bfloat16", "int8_rowwise"]
Readers = Literal["owner", "group"]
LatePositives = Literal["emit", "drop", "dead_letter"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping in the job file; an unknown key is an error."""


class InputConfig(_Section, frozen=True):
    """Where events come from: either features and actions to be joined, or samples that are already joined."""

    features: LateText | None = None  # URL of the feature events
    actions: LateText | None = None  # URL of the action events
    samples: LateText | None = None  # URL of joined samples (for instance parquet://)
    dead_letters: LateText | None = (
        None  # URL of the sink for records that cannot be used; None: counted and logged only
    )
    follow: bool = True  # False: stop at the end that the streams had when the job started
    # a request's records are in partitions of one number: each of several processes then reads and joins its partitions
    co_partitioned: bool = False
    idle_s: NonNegative = 0.5  # a caught-up partition without records for this long stops holding the watermark
    max_out_of_order_s: NonNegative = 0.0  # how far a partition's event times may run behind its latest
    max_future_s: NonNegative = 600.0  # further ahead of its ingestion time than this: dead letter
    jump_records: Count = 8  # n: a partition's clock is what n of its last 2n - 1 records have reached; 1: the newest
    max_jump_s: Positive = 2592000.0  # 30 days; further ahead of that clock, and no n agree: dead letter
    time_unit: Literal["s", "ms", "us", "ns"] = "ms"  # of the events' event_time_ms; parquet:// has its own unit=
    check_time_unit: bool = True  # times that are a date of our time in another unit, and none in ms: dead letter
    # stop: end by name when records are gone that were not read; skip: go on behind them
    on_data_loss: Literal["stop", "skip"] = "stop"
    max_reject_share: ShareOrNone = (
        0.5  # of a stream's first 1,000 records, then of each train.window_samples: above it, stop
    )
    # what becomes of events with features that no table and no model reads
    unknown_features: Literal["dead_letter", "ignore"] = "dead_letter"


class JoinConfig(_Section, frozen=True):
    """How features and actions become labelled samples, in event time."""

    positive_actions: list[str] = []  # empty: every action is a positive; not where `labels` name their actions
    window_s: Positive = 1800.0  # a feature event without a positive action for this long is a negative
    early_s: NonNegative = 60.0  # an action that came before its features is kept for this long
    dedup_s: NonNegative = 3600.0  # a repeated (request, item, action) within this horizon is dropped
    # an action behind its window: trained as a positive too, dropped, or a dead letter
    late_positives: LatePositives = "emit"
    negative_rate: Share = 1.0  # share of requests kept as negatives, by hash of (request id, item id)
    max_bytes: Count = 512 * 2**20  # memory of everything that waits; above it the streams that run ahead are not read


class ModelConfig(_Section, frozen=True):
    """The network over the embeddings. Which kind reads which key is in `monolith.config.model_rules`."""

    kind: str = "deepfm"  # lr, fm, deepfm, widedeep, mlp, dcnv2, dlrm, or MODULE:CLASS, a torch module of your own
    hidden: list[Count] = msgspec.field(default_factory=lambda: [256, 128, 64])  # of the MLP; dlrm: of the top one
    bottom: list[Count] = msgspec.field(default_factory=lambda: [64])  # dlrm: of the bottom MLP, before its last layer
    cross_layers: Count = 3  # dcnv2: of the cross network
    cross_rank: Count | None = None  # dcnv2: each cross layer's matrix is a product of this rank; None: a full matrix
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"] = "relu"  # after each MLP layer
    norm: Literal["none", "batch", "layer"] = "none"  # of each MLP layer's output, before the activation
    dropout: Decay = 0.0  # share of each MLP layer's outputs that a training step sets to 0; not used in scoring
    embedding_l2: NonNegative = 0.0  # each sample's loss gets half of this times the squares of the vectors it reads
    options: dict[str, Any] = {}  # MODULE:CLASS: arguments of its constructor, by name


class DenseOptimizerConfig(_Section, frozen=True):
    """The optimizer of the dense weights (torch)."""

    kind: Literal["sgd", "adagrad", "adam"] = "adam"  # torch's optimizer of that name
    lr: Positive = 0.001  # the learning rate
    weight_decay: NonNegative = 0.0  # as torch's optimizer has it
    on_nonfinite: Literal["raise", "skip_step"] = "raise"  # NaN, infinity or more than 2^50 in a gradient


class TrainConfig(_Section, frozen=True):
    """How the stream is cut into steps, and how often the result leaves."""

    batch_size: Count = 256  # samples an optimizer step, at most
    step_records: Count = 256  # records a journal step, at most
    step_linger_s: NonNegative = 0.05  # a step with fewer records waits this long for more
    publish_every_s: NonNegative = 0.5  # wall time between deltas
    snapshot_every_s: Positive = 30.0  # wall time between snapshots
    keep_snapshots: Count = 2  # how many of the newest stay on the disk
    milestone_every_s: Positive | None = (
        None  # wall time between snapshots that stay for `monolith rollback`; None: none
    )
    keep_milestones: Count = 7  # how many of the newest of those stay
    keep_journal: bool = False  # True: all steps of the run are kept, so that `monolith replay` can repeat all of it
    sweep_rows: Count = 4096  # of each table: how many rows and counters a step looks at for expired ones, in turn
    window_samples: Count = 5000  # samples per reported metrics window
    group_by: str = "user"  # feature whose value groups the within-user AUC; NaN where no table reads a `user`
    threads: Count = 1  # of torch's dense part; the bits depend on it
    device: str = (
        "cpu"  # of the dense part: cpu, cuda or cuda:N (docs/models.md; no GPU has tried it yet); the bits depend on it
    )


class PublishConfig(_Section, frozen=True):
    """How rows leave for the store."""

    payload: Payload = "float32"  # of a row's values in store and replicas; training does not see it


class ServeConfig(_Section, frozen=True):
    """What a server answers at most, and how long it waits for clients. Beyond that: 413, 503, a closed connection."""

    max_rows: Count = 10_000  # ids of a look-up, samples of a prediction
    max_values: Count = 500_000  # feature values of a prediction: elements of all bags, and single values
    max_sample_values: Count = 20_000  # of one sample of it
    max_request_bytes: Count = 256 * 2**20  # memory of all requests at a time that take more than 64 KiB
    threads: Count = 2  # that answer what takes longer than a look-up of a few ids in memory
    max_waiting: Count = 64  # requests that wait for a thread
    max_connections: Count = 800  # at a time
    keep_alive_s: Count = 5  # a connection without a request for this long is closed
    head_timeout_s: Positive = 10.0  # from a connection, or a request's first byte, to the end of its header
    body_timeout_s: Positive = 30.0  # from there to the end of its body
    answer_timeout_s: Positive = 30.0  # for the client to take an answer
    max_age_s: Positive | None = None  # since the trainer was last heard of, from which on /ready is 503; None: never
    token_file: str | None = None  # file of bearer tokens, one a line; a request must carry one of them; None: no token
    token_variable: str | None = None  # environment variable with a bearer token; beside a file, any of both will do
    tls_certificate: str | None = None  # PEM file of the certificate, and what it is signed with; None: plain HTTP
    tls_key: str | None = None  # PEM file of the certificate's key; None: it is in the certificate's file


class JobConfig(_Section, frozen=True):
    """One training job, from streams to store."""

    name: str  # of the model, in stores and metrics; letters, digits, '_', '-', '.', a letter or digit first
    input: InputConfig
    tables: list[TableConfig]  # the embedding tables; at least one
    features: list[FeatureConfig] = []  # a feature that is not listed is a single integer
    labels: list[TaskConfig] = msgspec.field(default_factory=lambda: [TaskConfig()])  # the tasks; one binary label
    join: JoinConfig = JoinConfig()
    model: ModelConfig = ModelConfig()
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    train: TrainConfig = TrainConfig()
    publish: PublishConfig = PublishConfig()
    serve: ServeConfig = ServeConfig()
    fit: FitConfig = FitConfig()
    sharding: ShardingConfig = ShardingConfig()
    state: str = "state"  # folder of the step journal and the snapshots
    files: Readers = "owner"  # who may read what the job writes: its user alone, or (as an LMDB replica must) its group
    store: LateText | None = None  # URL of the serving store; None: nothing is published
    seed: int = 0  # of the dense weights' first values

    def feature(self, name: str) -> FeatureConfig:
        """The declaration of feature ``name``, or the default: one integer."""
        return next((f for f in self.features if f.name == name), FeatureConfig(name=name))

    def feature_names(self) -> list[str]:
        """Every feature that some table reads, in table order."""
        return [name for table in self.tables for name in table.feature_names()]
