"""TorchRec's own sharding test, on a model of its tests whose collections are ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchrec.distributed

from monolith.tables import TableConfig, optimizers
from monolith.training import EmbeddingBagCollection
from monolith.training.sharding import CollectionSharder

LR = 0.1  # that of the test's own optimizers


def as_ours(collection: Any) -> EmbeddingBagCollection:
    """Our tables in the places of theirs."""
    return EmbeddingBagCollection(
        [
            TableConfig(
                name=config.name, dim=config.embedding_dim, features=config.feature_names, shared_ids=True,
                pooling=config.pooling.name.lower(), optimizer=optimizers.SGD(lr=LR),
            )
            for config in collection.embedding_bag_configs()
        ]
    )  # fmt: skip


def sharding(rank: int, folder: Path) -> dict[str, str]:
    """What became of each of the test's variants, in words."""
    torchrec.distributed.__path__.append(os.path.join(os.environ["MONOLITH_TORCHREC_TESTS"], "torchrec", "distributed"))
    from torchrec.distributed.test_utils.test_model import TestSparseNN
    from torchrec.distributed.test_utils.test_sharding import sharding_single_rank_test_single_process
    from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
    from torchrec.types import DataType

    class WithOurs(TestSparseNN):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.sparse.ebc = as_ours(self.sparse.ebc)
            if self.sparse.weighted_ebc is not None:
                self.sparse.weighted_ebc = as_ours(self.sparse.weighted_ebc)

        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            """Without our pieces: the test copies weights between models, and ours are a function of the ids."""
            state = super().state_dict(*arguments, **options)
            for name in [name for name in state if ".rows-" in name]:
                del state[name]
            return state

    def tables(pooling: PoolingType, kind: str) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(
                name=f"{kind}table_{i}", feature_names=[f"{kind}feature_{i}"], num_embeddings=(i + 1) * 10,
                embedding_dim=(i + 2) * 4, pooling=pooling, data_type=DataType.FP32,
            )
            for i in range(4)
        ]  # fmt: skip

    class Counting(CollectionSharder):
        divided = 0

        def shard(self, *arguments: Any, **options: Any) -> Any:
            Counting.divided += 1
            return super().shard(*arguments, **options)

    told = {}
    ranks = dist.get_world_size()
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    for name, pooling, options in _variants():
        plain = tables(PoolingType[pooling], "")
        try:
            sharding_single_rank_test_single_process(
                pg=dist.group.WORLD, device=torch.device("cpu"),
                rank=rank, world_size=ranks, model_class=WithOurs, tables=plain,
                weighted_tables=tables(PoolingType[pooling], "weighted_"),
                embedding_groups={"group_0": [f"feature_{i}" for i in range(4)]},
                sharders=[Counting(expected_rows=100)], optim=_exact_sgd(),
                **options,
            )  # fmt: skip
            told[name] = "passed"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    told["divided"] = str(Counting.divided)
    return told


def _variants() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("sum", "SUM", {}),
        ("mean", "MEAN", {}),
        ("batches of different size", "SUM", {"variable_batch_size": True}),
        ("one batch size for all", "SUM", {"global_constant_batch": True}),
        ("batches that may be empty", "SUM", {"allow_zero_batch_size": True}),
        ("offsets in place of lengths", "SUM", {"use_offsets": True}),
        ("32-bit lengths", "SUM", {"lengths_dtype": torch.int32}),
        ("32-bit ids", "SUM", {"indices_dtype": torch.int32}),
    ]


def _exact_sgd() -> Any:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    return EmbOptimType.EXACT_SGD
