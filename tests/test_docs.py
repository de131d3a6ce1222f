"""The figures in the documentation: generated from what was measured, or dated, each with a command that exists."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
MEASURED = re.compile(
    r"\d (k |M )?(rows|samples|ids)/s|\bquartiles? \d|\bmedian (of|and)|standard error|\+- 0\.\d|\d\.\d{3} ?\|"
    r"|\d times as long|\bp99 \d|\d (ns|us|µs) (a|an) (row|id)\b|\b[0-9.]+ (ms|s) (a|of a) (step|core)\b"
)
# The words before the first section date the whole page.
OF_ONE_DAY = {"benchmarks.md", "decisions.md", "restart.md", "results.md"}
COMMAND = re.compile(r"(?:python )?(bench/\w+\.py)([^`\n]*)")


def figures_of_the_report():
    spec = importlib.util.spec_from_file_location("report", CHECKOUT / "bench/report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    return report


def test_the_page_of_benchmarks_is_what_their_figures_give():
    figures = json.loads((CHECKOUT / "docs/benchmarks.json").read_text())
    assert (CHECKOUT / "docs/benchmarks.md").read_text() == figures_of_the_report().page(figures)
    assert figures["date"] in (CHECKOUT / "docs/benchmarks.md").read_text().split("## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_section_with_measured_figures_says_when_they_were_measured(page):
    _, whole, *sections = re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE)
    if page.name in OF_ONE_DAY:
        assert DATE.search(whole)
        return
    undated = [text.splitlines()[0] for text in (whole, *sections) if MEASURED.search(text) and not DATE.search(text)]
    assert undated == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_benchmark_that_a_page_names_is_there_and_takes_the_options_that_it_shows(page):
    for path, options in COMMAND.findall(page.read_text()):
        program = CHECKOUT / path
        assert program.is_file(), path
        for option in re.findall(r"--[a-z][a-z-]*", options.split("#")[0]):
            assert f'"{option}"' in program.read_text(), f"{path} {option}"


@pytest.mark.parametrize("page", ["models.md", "operations.md", "optimizers.md", "policies.md", "storage.md"])
def test_pages_with_figures_have_sections_that_are_held(page):
    sections = re.split(r"^#+ ", (CHECKOUT / "docs" / page).read_text(), flags=re.MULTILINE)
    assert any(MEASURED.search(section) for section in sections)
