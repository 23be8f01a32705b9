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


@pytest.mark.parametrize(
    "name",
    [
        "losses.triplet",
        "losses.contrastive",
        "losses.softmax",
        "losses.margins",
        "estimators.lmnn",
        "estimators.embedder",
    ],
)
def test_docstrings_print_what_they_say(name):
    failed, tried = doctest.testmod(importlib.import_module(f"tercet.{name}"), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


# docs/losses.md: its tables hold what there is, and nothing else.


def losses_page():
    return (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")


def rows_of(heading):
    """The cells of the table that has this heading, a list for each row."""
    lines = losses_page().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    end = next(place for place in range(start, len(lines)) if not lines[place].startswith("|"))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[start:end]]


def words_of(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_tables_of_losses_name_all_there_is():
    from tercet.distances import DISTANCES
    from tercet.kernels import IMPLEMENTATIONS, MININGS, PENALTIES, REDUCTIONS
    from tercet.losses.presets import PRESETS

    assert [words_of(row[0])[0] for row in rows_of("`mining`")] == list(MININGS)
    assert [words_of(row[0])[0] for row in rows_of("`penalty`")] == list(PENALTIES)
    assert [words_of(row[0])[0] for row in rows_of("`reduction`")] == list(REDUCTIONS)
    assert [words_of(row[0])[0] for row in rows_of("`distance`")[: len(DISTANCES)]] == list(DISTANCES)
    assert {words_of(row[0])[0] for row in rows_of("`implementation`")} == set(IMPLEMENTATIONS)
    for row in rows_of("`TripletLoss(like=...)`"):
        (name,) = words_of(row[0])
        assert row[5].split(", ") == list(PRESETS[name])
        for mining in row[5].split(", "):
            settings = PRESETS[name][mining]
            assert (row[1], float(row[2]), row[3] == "yes") == tuple(
                settings[key] for key in ("distance", "margin", "normalize")
            )
            said = (
                "mean-active" if "mean-active" in row[4] and ("for `all`" not in row[4] or mining == "all") else "mean"
            )
            assert said == settings["reduction"]
    assert len(rows_of("`TripletLoss(like=...)`")) == len(PRESETS)


def test_the_table_of_penalties_says_which_go_with_which_mining():
    import tercet
    from tercet.errors import InputError

    for row in rows_of("`penalty`"):
        (penalty,) = words_of(row[0])
        for mining, said in (("all", row[2]), ("hard", row[3])):
            if said == "no":
                with pytest.raises(InputError, match="goes with mining 'all'"):
                    tercet.TripletLoss(mining=mining, penalty=penalty)
            else:
                tercet.TripletLoss(mining=mining, penalty=penalty)


def test_the_table_of_figures_names_all_there_are():
    import dataclasses

    from tercet.kernels import TripletStats

    named = [word for row in rows_of("figure") for word in words_of(row[0])]
    assert set(named) == {field.name for field in dataclasses.fields(TripletStats)} | {"active_share"}


def test_ranges_on_the_sphere_are_as_the_table_says():
    from math import sqrt

    from tercet.distances import Mahalanobis, resolve

    ranges = {"euclidean": 2, "squared-euclidean": 4, "cosine": 2, "manhattan": 2 * sqrt(7), "minkowski": 2,
              "chebyshev": 2, "jaccard": 1}  # fmt: skip
    for name, largest in ranges.items():
        assert resolve(name).sphere_range(7) == pytest.approx(largest)
        (row,) = (row for row in rows_of("`distance`") if words_of(row[0])[:1] == [name])
        assert row[2].startswith("2 √D" if name == "manhattan" else f"{largest}")
    assert resolve("minkowski(p=1.5)").sphere_range(7) == pytest.approx(2 * 7 ** (1 / 1.5 - 1 / 2))
    assert Mahalanobis(components=[[3.0, 0.0], [0.0, 1.0]]).sphere_range(2) == pytest.approx(2 * 3)


def test_auto_takes_what_the_page_says_on_a_cpu():
    import torch

    import tercet

    x, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).abs(), torch.arange(8) % 4
    (numba,) = (row for row in rows_of("`implementation`") if row[0] == "`numba`")
    assert words_of(numba[2]) == ["distance-weighted", "softplus", "all"]
    settings = [{"mining": mining} for mining in ("all", "hard", "semihard", "easy-positive", "easy-positive-semihard")]
    settings += [{"penalty": penalty} for penalty in ("squared-hinge", "logsumexp", "lifted")]
    settings += [{"distance": name} for name in ("manhattan", "minkowski", "chebyshev", "jaccard", "cosine")]
    settings += [{"mining": "hard", "penalty": "softplus"}, {"distance": tercet.Mahalanobis(learned=True, dim=4)}]
    others = [{"mining": "distance-weighted"}, {"penalty": "softplus"}, {"distance": lambda a, b: (a - b).norm(dim=1)}]
    for expected, several in (("numba", settings), ("torch", others)):
        for arguments in several:
            loss = tercet.TripletLoss(**arguments)
            loss(x, labels)
            assert loss.plan.implementation == expected, arguments


def test_what_does_not_work_raises_as_the_page_says():
    import torch

    import tercet
    from tercet.errors import TrainingError

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(tercet.InfoNCE()(x, [0, 0, 1, 1, 2, 2]), x, create_graph=True)
    with pytest.raises(TrainingError, match="cannot be differentiated twice"):
        gradient.square().sum().backward()
    value = tercet.triplet_margin_loss(x[:2], x[2:4], x[4:], margin=2.0, distance="squared-euclidean")
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.abs().max() > 0
    with pytest.raises(TrainingError, match=r"cannot be mapped over several by torch\.func\.vmap"):
        torch.func.vmap(lambda rows: tercet.TripletLoss()(rows, [0, 0, 1]))(torch.randn(2, 3, 4))
    by_torch = torch.func.grad(lambda rows: tercet.TripletLoss()(rows, [0, 0, 1]))(torch.randn(3, 4))
    assert by_torch.shape == (3, 4)


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
    """Flags of pip, of torchrun and Slurm, and of the benchmarks, which the pages name too."""
    others = "--upgrade --nnodes --nproc-per-node --node-rank --master-addr --master-port --max-restarts "
    others += "--rdzv-id --rdzv-backend --rdzv-endpoint --nodes --ntasks-per-node --gpus-per-node --cpus-per-task "
    return others + " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))


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
    with pytest.raises(AttributeError, match="module 'tercet' has no attribute 'TripletLos'"):
        tercet.TripletLos  # noqa: B018
