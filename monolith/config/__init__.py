"""The job file: typed structs, every default, and the loader that turns YAML into them."""

from monolith.config.features import FeatureConfig
from monolith.config.job import (
    DenseOptimizerConfig,
    InputConfig,
    JobConfig,
    JoinConfig,
    ModelConfig,
    TrainConfig,
)
from monolith.config.labels import TaskConfig
from monolith.config.load import job_from_json, job_json, load_job, parse_job
from monolith.config.table import TableConfig

__all__ = [
    "DenseOptimizerConfig",
    "FeatureConfig",
    "InputConfig",
    "JobConfig",
    "JoinConfig",
    "ModelConfig",
    "TableConfig",
    "TaskConfig",
    "TrainConfig",
    "job_from_json",
    "job_json",
    "load_job",
    "parse_job",
]
