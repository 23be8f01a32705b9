"""Imports go one way. Read from the syntax tree, relative imports and imports inside functions included."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tercet"
LAYERS = (
    "errors", "compilation", "distances", "collectives", "kernels", "losses", "neighbors", "data", "encoders", "mining",
    "evaluation", "doctor", "training", "index", "report", "lmnn", "estimators", "integrations", "run", "cli",
)  # fmt: skip
KNOW_ONLY_ERRORS = ("data", "encoders")  # siblings: what one needs of the other, training hands over
OUTSIDE = (
    "__init__",
    "__main__",
    "testing",
)  # the front door, which opens every room lazily, and the contracts


def layer_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imported_layers(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """The layers that a module of `package` (its parts below tercet) imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("tercet.")}
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = ("tercet", *package)[: len(package) + 2 - node.level]
                parts = (*base, *(node.module or "").split(".")) if node.module else base
            else:
                parts = tuple((node.module or "").split("."))
            if parts[0] == "tercet":
                found |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
    return found & set(LAYERS)


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if layer_of(path) not in OUTSIDE]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    layer = layer_of(path)
    assert layer in LAYERS, f"{path} is in no layer: add it to the order, on purpose"
    package = path.relative_to(SOURCE).parts[:-1]
    for imported in imported_layers(ast.parse(path.read_text(encoding="utf-8")), package) - {layer}:
        if layer in KNOW_ONLY_ERRORS:
            assert imported == "errors", f"{path} imports {imported}"
        assert LAYERS.index(imported) < LAYERS.index(layer), f"{path} ({layer}) imports {imported}, which comes later"


def test_only_collectives_knows_torch_distributed():
    for path in modules():
        if layer_of(path) != "collectives":
            assert "torch.distributed" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("code", "package", "expected"),
    [
        ("from tercet.losses import TripletLoss", ("kernels",), {"losses"}),
        ("import tercet.cli", (), {"cli"}),
        ("from ..training import loop", ("losses",), {"training"}),
        ("from . import plan", ("kernels",), {"kernels"}),
        ("from .. import report", ("kernels",), {"report"}),
        ("def f():\n    from tercet.run import Run", ("data",), {"run"}),
        ("import torch", ("data",), set()),
    ],
)
def test_the_reader_of_imports(code, package, expected):
    assert imported_layers(ast.parse(code), package) == expected
