"""`model.kind: MODULE:CLASS`: a user's own package, torchrec's classes, and what is refused in which words."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from batches import batch_of
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.features import FeatureConfig
from monolith.errors import ConfigError, InputError
from monolith.training.export import DenseGraph, export_graph
from monolith.training.learner import Learner
from monolith.training.models import build_model

VECTORS, DENSE = {"user": 4, "item": 4}, {"age": 1, "image": 2}
NETS = """
    import torch
    from torch import nn


    class Tower(nn.Module):
        def __init__(self, vectors, dense, tasks, *, width=8, dropout=0.0):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(sum(vectors.values()) + sum(dense.values()), width), nn.BatchNorm1d(width), nn.ReLU(),
                nn.Dropout(dropout), nn.Linear(width, tasks),
            )

        def forward(self, inputs):
            return self.layers(torch.cat(list(inputs.values()), dim=1))


    class Noisy(Tower):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs + torch.rand(len(outputs), 1) if self.training else outputs


    class Frozen(Tower):
        def __init__(self, vectors, dense, tasks):
            super().__init__(vectors, dense, tasks)
            self.layers[0].requires_grad_(False)


    class Lazy(Tower):
        def __init__(self, vectors, dense, tasks):
            super().__init__(vectors, dense, tasks)
            self.layers[0] = nn.LazyLinear(8)


    class Tied(Tower):
        def __init__(self, vectors, dense, tasks):
            super().__init__(vectors, dense, tasks)
            self.again = nn.Linear(8, tasks)
            self.again.weight = self.layers[4].weight


    class Branch(Tower):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs if outputs.isfinite().all() else torch.zeros_like(outputs)


    class ForThree(Tower):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs + 0 if len(outputs) > 2 else outputs


    class Complex(Tower):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs + 0 * torch.linalg.eigvals(outputs[:, :, None] * torch.ones(1, 3, 3)).real.sum(1)[:, None]


    class Detached(Tower):
        def forward(self, inputs):
            return super().forward(inputs).detach()


    class Undefined(Tower):
        def forward(self, inputs):
            return super().forward(inputs) - super().forward(inputs) * torch.inf


    class InBatch(Tower):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs - outputs.mean(dim=0)


    class Squeezed(Tower):
        def forward(self, inputs):
            return super().forward(inputs).squeeze()


    class Twice(Tower):
        def forward(self, inputs):
            return torch.cat([super().forward(inputs)] * 2, dim=1)


    class Double(Tower):
        def __init__(self, vectors, dense, tasks):
            super().__init__(vectors, dense, tasks)
            self.double()

        def forward(self, inputs):
            return self.layers(torch.cat(list(inputs.values()), dim=1).double()).float()


    class Raises(Tower):
        def forward(self, inputs):
            raise KeyError("movie")


    def function(vectors, dense, tasks):
        return Tower(vectors, dense, tasks)
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The user's package ``mypkg`` in a folder on the path, with modules that work and one that does not."""
    folder = tmp_path / "code" / "mypkg"
    folder.mkdir(parents=True)
    folder.joinpath("__init__.py").touch()
    folder.joinpath("nets.py").write_text(textwrap.dedent(NETS))
    folder.joinpath("broken.py").write_text("import torch\nraise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(folder.parent)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "mypkg"]:
        del sys.modules[name]


def built(kind: str, tasks: int = 1, **options: object) -> torch.nn.Module:
    return build_model(ModelConfig(kind=kind, options=options), VECTORS, DENSE, 3, tasks)


def inputs_of(batch: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(batch, width, generator=generator) for name, width in {**VECTORS, **DENSE}.items()}


def job_of(kind: str, **options: object) -> JobConfig:
    return JobConfig(
        name="t",
        input=InputConfig(samples="memory://samples"),
        tables=[TableConfig(name="user", dim=4), TableConfig(name="item", dim=3)],
        features=[FeatureConfig(name="age", type="float")],
        model=ModelConfig(kind=kind, options=options),
    )


def batch(job: JobConfig, number: int):
    rng = np.random.default_rng(number)
    users = rng.integers(0, 9, 32)
    samples = [{"user": int(u), "item": int(u) % 5, "age": float(u) / 9} for u in users]
    return batch_of(job, samples, users % 2)


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_class_gets_widths_tasks_and_options_and_becomes_a_graph(tasks):
    model = built("mypkg.nets:Tower", tasks, width=6, dropout=0.5)
    assert model.net.layers[0].weight.shape == (6, 11)
    assert model(inputs_of()).shape == ((5,) if tasks == 1 else (5, tasks))
    graph = DenseGraph(export_graph(model, {**VECTORS, **DENSE}))
    assert graph.check(model.eval(), inputs_of()) < 1e-5


def test_the_example_of_the_documentation_is_a_model_that_is_served(tmp_path):
    page = Path(__file__).parents[2].joinpath("docs", "models.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    kind, options = re.search(r'kind: "mynets\.(\S+)", options: (\{.*?\})', page).groups()
    tmp_path.joinpath("code", "mypkg", "towers.py").write_text(code)
    model = built(f"mypkg.{kind}", 2, **yaml.safe_load(options))
    assert model.net.last[2].in_features == 64
    assert DenseGraph(export_graph(model, {**VECTORS, **DENSE})).check(model, inputs_of()) < 1e-5


def test_weights_under_two_names_are_served_under_both(tmp_path):
    job = job_of("mypkg.nets:Tied")
    learner = Learner(job)
    learner.export(tmp_path)
    learner.step(batch(job, 0))
    state = learner.model.state_dict()
    assert torch.equal(state["net.again.weight"], state["net.layers.4.weight"])
    assert learner.graph.check(learner.model, learner._inputs) < 1e-5


def test_equal_seeds_give_equal_weights():
    first, second, other = (
        build_model(ModelConfig(kind="mypkg.nets:Tower"), VECTORS, DENSE, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["net.layers.0.weight"], other["net.layers.0.weight"])


@pytest.mark.parametrize("kind", ["Tower", "Noisy", "Frozen", "Lazy", "Tied"])
def test_it_learns_and_goes_on_after_a_restore_with_the_same_bits(tmp_path, kind):
    """Also where forward itself draws by chance, and where some weights are not to be learnt."""
    job = job_of(f"mypkg.nets:{kind}", **({"dropout": 0.3} if kind == "Tower" else {}))
    whole, cut, again = Learner(job), Learner(job), Learner(job)
    frozen = whole.model.net.layers[0].weight.clone()
    scores = [whole.step(batch(job, step)) for step in range(20)]
    for step in range(10):
        cut.step(batch(job, step))
    cut.save(tmp_path / "kept")
    again.load(tmp_path / "kept")
    assert all(np.array_equal(again.step(batch(job, step)), scores[step]) for step in range(10, 20))
    assert again.dense_state() == whole.dense_state()
    assert torch.equal(whole.model.net.layers[0].weight, frozen) == (kind == "Frozen")


def test_its_graph_is_made_anew_at_every_start(tmp_path, monkeypatch):
    """The class may do something else by now, though its name and weights are the same."""
    job = job_of("mypkg.nets:Tower")
    first = Learner(job).export(tmp_path)
    nets = sys.modules["mypkg.nets"]
    forward = nets.Tower.forward
    monkeypatch.setattr(nets.Tower, "forward", lambda self, inputs: 2 * forward(self, inputs))
    changed = Learner(job)
    assert changed.export(tmp_path) != first
    changed.step(batch(job, 0))
    assert changed.graph.check(changed.model, changed._inputs) < 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (
            "nopkg.nets:Tower",
            {},
            r"the module 'nopkg.nets' cannot be imported \(its folder must be on PYTHONPATH\): Mod",
        ),
        ("mypkg.broken:Tower", {}, r"'mypkg.broken' cannot be imported .*: RuntimeError: no licence"),
        ("mypkg.nets:Towel", {}, r"'mypkg.nets' has no such name; allowed is a class of torch.nn.Module"),
        ("mypkg.nets:function", {}, r"has .*function.* there; allowed is a class of torch.nn.Module"),
        ("mypkg.nets:Tower", {"widht": 3}, r"cannot be built with options \{'widht': 3\}: TypeError: .*'widht'"),
        ("mypkg.nets:Raises", {}, r"mypkg.nets:Raises does not run: KeyError: 'movie'"),
        (
            "mypkg.nets:Twice",
            {},
            r"gives torch.float32 \(3, 2\) of 3 samples; it must give logits, float32 \(batch,\) or",
        ),
        ("mypkg.nets:Squeezed", {}, r"gives torch.float32 \(\) of 1 samples"),
        ("mypkg.nets:Undefined", {}, r"of small random inputs; logits must be finite"),
        ("mypkg.nets:InBatch", {}, r"a score must depend on its sample only"),
        ("mypkg.nets:Detached", {}, r"cannot be trained: RuntimeError: element 0 of tensors does not require grad"),
        ("mypkg.nets:Double", {}, r"the weight 'net.layers.0.weight' is torch.float64 on cpu; weights must be float32"),
        ("mypkg.nets", {}, r"model.kind: saw the text 'mypkg.nets'; allowed: lr, fm, .*, or MODULE:CLASS"),
        ("mypkg/nets:Tower", {}, r"model.kind: saw the text"),
    ],
)
def test_what_cannot_be_a_model_is_refused_with_the_reason(kind, options, says):
    with pytest.raises(ConfigError, match=says):
        built(kind, **options)


def test_settings_of_our_models_are_refused_beside_a_class():
    with pytest.raises(ConfigError, match=r"model.dropout: the model mypkg.nets:Tower does not read it"):
        build_model(ModelConfig(kind="mypkg.nets:Tower", dropout=0.5), VECTORS, DENSE)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("Branch", r"torch makes no ONNX graph of it: GuardOnDataDependentSymNode"),
        ("ForThree", r"its ONNX graph does not do what the model does: .*Got: 1 Expected: 3"),
        ("Complex", r"torch makes no ONNX graph of it: .*linalg_eig"),
    ],
)
def test_what_onnx_cannot_say_is_trained_but_not_exported(kind, says, tmp_path, capfd):
    job = job_of(f"mypkg.nets:{kind}")
    learner = Learner(job)
    assert np.isfinite(learner.step(batch(job, 0))).all()
    with pytest.raises(InputError, match=says):
        learner.export(tmp_path)
    assert capfd.readouterr().err == ""


# --- torchrec's -------------------------------------------------------------------------------------------------------

LAYERS = {"dense_arch_layer_sizes": [8, 4], "over_arch_layer_sizes": [8, 1]}
TORCHREC = {
    "torchrec.models.dlrm:DLRM": LAYERS,
    "torchrec.models.dlrm:DLRM_DCN": {**LAYERS, "dcn_num_layers": 2, "dcn_low_rank_dim": 3},
    "torchrec.models.dlrm:DLRM_Projection": {
        **LAYERS, "interaction_branch1_layer_sizes": [8, 8], "interaction_branch2_layer_sizes": [8, 8],
    },
    "torchrec.models.deepfm:SimpleDeepFMNN": {"hidden_layer_size": 8, "deep_fm_dimension": 5},
}  # fmt: skip


def test_the_torchrec_example_of_the_documentation_is_a_model():
    page = Path(__file__).parents[2].joinpath("docs", "models.md").read_text()
    text = page.partition("## torchrec's models")[2].partition("```yaml\n")[2].partition("```")[0]
    config = ModelConfig(**yaml.safe_load(text)["model"])
    model = build_model(config, dict.fromkeys(VECTORS, 16), DENSE)
    assert type(model.net.model).__name__ == "DLRM_DCN"


@pytest.mark.parametrize("kind", TORCHREC)
def test_torchrecs_class_computes_what_it_does_over_its_own_collection(kind):
    """The one-hot rows of torchrec's tables are the vectors; SimpleDeepFMNN's sigmoid is taken off."""
    ours = built(kind, **TORCHREC[kind])
    collection = EmbeddingBagCollection(
        [EmbeddingBagConfig(name=n, embedding_dim=4, num_embeddings=5, feature_names=[n]) for n in VECTORS]
    )
    module, _, name = kind.partition(":")
    count = "num_dense_features" if name == "SimpleDeepFMNN" else "dense_in_features"
    theirs = getattr(sys.modules[module], name)(embedding_bag_collection=collection, **{count: 3}, **TORCHREC[kind])
    weights = {key.removeprefix("net.model."): value for key, value in ours.state_dict().items()}
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    inputs = inputs_of()
    for name, table in collection.embedding_bags.items():
        table.weight.data.copy_(inputs[name])
    ids = KeyedJaggedTensor(
        keys=list(VECTORS), values=torch.arange(5).repeat(2), lengths=torch.ones(10, dtype=torch.int32)
    )
    expected = theirs(torch.cat([inputs[name] for name in DENSE], dim=1), ids).squeeze(1)
    outputs = ours(inputs)
    torch.testing.assert_close(torch.sigmoid(outputs) if "DeepFM" in kind else outputs, expected)
    assert DenseGraph(export_graph(ours, {**VECTORS, **DENSE})).check(ours, inputs) < 1e-5


def test_torchrecs_own_conditions_and_a_job_without_dense_features_are_told():
    with pytest.raises(ConfigError, match=r"dlrm:DLRM cannot be built .*must match"):
        built("torchrec.models.dlrm:DLRM", **LAYERS | {"dense_arch_layer_sizes": [8, 5]})
    with pytest.raises(ConfigError, match=r"torchrec's models read dense features, and there is none"):
        build_model(ModelConfig(kind="torchrec.models.dlrm:DLRM", options=LAYERS), VECTORS, {})
