"""docs/optimizers.md says what an optimizer takes: one native file and one struct. Both come from the page here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "tables" / "native"
PAGE = (ROOT / "docs" / "optimizers.md").read_text()

STEPS = """
#include <cstdio>

#include "optimizers/optimizer.h"

using namespace monolith;

int main() {
  Lion lion;
  lion.lr = 0.5, lion.weight_decay = 0.25;
  const WholeRow in_a_slice = lion;
  const Optimizer optimizer = at_step(lion, 1);
  float w[3] = {1.0f, -2.0f, 0.5f}, m[3];
  const float grad[3] = {0.3f, -0.1f, -0.7f};
  std::visit([&](const auto& rule) { rule.start(m, 3); }, in_a_slice);
  for (int k = 0; k < 3; ++k)
    std::visit([&](const auto& rule) { step_row(rule, w, m, grad, std::size_t{3}); }, optimizer);
  for (int i = 0; i < 3; ++i) std::printf("%.9g %.9g\\n", w[i], m[i]);
  bool listed = false;
  Rules::each([&](auto* rule) { listed |= std::is_same_v<decltype(rule), Lion*>; });
  Lion::fields([](const char* name, auto) { std::printf("%s\\n", name); });
  std::printf("%s %d\\n", Lion::kName, listed);
}
"""

# A process of its own, in which the config's module has the struct of the page.
DECLARED = """
import sys
from importlib.util import spec_from_file_location
from types import SimpleNamespace


class Finder:
    def find_spec(name, path=None, target=None):
        return spec_from_file_location(name, sys.argv[1]) if name == "monolith.config.optimizers" else None


sys.meta_path.insert(0, Finder)

import msgspec
from monolith.config import optimizers as module
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables import Table, _core, optimizer_options
from monolith.tables.options import checked

config = msgspec.convert({"name": "t", "dim": 3, "optimizer": {"kind": "lion", "beta1": 0.75}}, TableConfig)
assert config.optimizer == module.Lion(beta1=0.75)
assert optimizer_options.row_layout(checked(config)) == "lion"
_core.Lion = SimpleNamespace
native = optimizer_options.native_optimizer(config)
assert (native.lr, native.beta1, native.beta2, native.weight_decay) == (0.0001, 0.75, 0.99, 0.0)
try:
    checked(TableConfig(name="t", dim=3, optimizer=module.Lion(beta2=1.0)))
except ConfigError as error:
    print(error)
"""


def block(language: str) -> str:
    """The code that the page's section has in a language."""
    section = PAGE[PAGE.index("## Adding one") :]
    found = re.search(rf"   ```{language}\n(.*?)   ```", section, re.DOTALL)
    assert found
    return textwrap.dedent(found[1])


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++17 compiler")
def test_native_file_of_the_page_is_in_the_list_by_itself(tmp_path):
    rules = tmp_path / "optimizers" / "rules"
    rules.mkdir(parents=True)
    (rules / "lion.h").write_text(block("cpp"))
    names = [
        f"optimizers/rules/{path.name}" for path in [*(NATIVE / "optimizers" / "rules").glob("*.h"), rules / "lion.h"]
    ]
    (tmp_path / "optimizers" / "all_rules.h").write_text("".join(f'#include "{name}"\n' for name in names))
    (tmp_path / "steps.cpp").write_text(STEPS)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{tmp_path}", f"-I{NATIVE}"]
    subprocess.run(["c++", *flags, "steps.cpp", "-o", "steps"], cwd=tmp_path, check=True)
    *lines, beta1, beta2, name = subprocess.run(
        [tmp_path / "steps"], capture_output=True, text=True
    ).stdout.splitlines()
    assert (beta1, beta2, name) == ("beta1", "beta2", "Lion 1")
    f32 = np.float32
    w, m, grad = f32([1.0, -2.0, 0.5]), np.zeros(3, f32), f32([0.3, -0.1, -0.7])
    for _ in range(3):
        g = grad + f32(0.25) * w
        u = f32(0.9) * m + (f32(1) - f32(0.9)) * g
        w, m = w - f32(0.5) * np.sign(u), f32(0.99) * m + (f32(1) - f32(0.99)) * g
    assert np.array_equal(np.array([line.split() for line in lines], f32), np.stack([w, m], axis=1))


def test_struct_of_the_page_is_known_to_job_files_and_tables(tmp_path):
    source = (ROOT / "monolith" / "config" / "optimizers.py").read_text()
    union = re.search(r"\nOptimizer = [^\n(]+\n", source)
    assert union
    changed = source.replace(union[0], f"\n{block('python')}\n{union[0].rstrip()} | Lion\n")
    (tmp_path / "optimizers.py").write_text(changed)
    run = [sys.executable, "-c", DECLARED, str(tmp_path / "optimizers.py")]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Expected `float` < 1.0 - at `$.optimizer.beta2`" in done.stdout


def test_every_native_file_of_rules_is_in_the_list_that_the_build_makes():
    from monolith.tables import _core

    for path in (NATIVE / "optimizers" / "rules").glob("*.h"):
        for name in re.findall(r'kName = "(\w+)"', path.read_text()):
            assert hasattr(_core, name), f"{path.name} has {name}"
