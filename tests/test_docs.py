"""What the documents say is true: their examples run, their commands and keys exist, their links lead somewhere."""

import doctest
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_print_what_they_say(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_readme_has_examples():
    examples = doctest.DocTestParser().get_examples((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(examples) >= 5


def test_docstrings_print_what_they_say():
    failed, tried = doctest.testmod(importlib.import_module("tercet.losses.triplet"), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for script in re.findall(r"benchmarks/\w+\.py", text):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_flags_that_are_named_exist(page, command):
    """Every --flag on the pages belongs to some command."""
    from tercet.cli import COMMANDS

    known = " ".join(command(name, "--help").out for name in COMMANDS) + " --version"
    for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]+", page.read_text(encoding="utf-8")):
        assert flag in known or flag in page_of_other_tools(page), flag


def page_of_other_tools(page: Path) -> str:
    """Flags of pip and of the benchmarks, which the pages name too."""
    return "--upgrade " + " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))


def test_the_documented_metrics_are_the_ones_written(image_run):
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    metrics = json.loads((image_run / "metrics.json").read_text(encoding="utf-8"))
    for name in (
        "eer",
        "auc",
        "threshold",
        "far",
        "frr",
        "accuracy",
        "r_precision",
        "map_at_r",
        "n_items",
        "n_queries",
    ):
        assert f"`{name}`" in text
        assert f"validation.{name}" in metrics


def test_the_public_names_are_the_ones_that_work():
    import tercet

    for name in tercet.__all__:
        assert getattr(tercet, name) is not None
    assert set(tercet.__all__) <= set(dir(tercet))
    with pytest.raises(AttributeError, match="module 'tercet' has no attribute 'LMNN'"):
        tercet.LMNN  # noqa: B018  absent until it works
