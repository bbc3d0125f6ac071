"""What imports what, how long files are, and that the public names are there."""

import ast
from pathlib import Path

import pytest

import convexdistill as cd

PACKAGE = Path(cd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
# Each may import what stands on lines above it, and nothing of its own line but itself.
ORDER = (
    ("errors",),
    ("seeds", "progress", "threads", "files", "differences", "manifest", "label_codes"),
    ("device",),
    ("layers",),
    ("testing",),
    ("data",),
    ("features",),
    ("training",),
    ("moments",),
    ("distilled",),
    ("select",),
    ("distill",),
    ("evaluate",),
    ("report",),
    ("__init__",),  # the package as a whole
    ("job",),
    ("terminal",),
    ("options",),
    ("moments_cli", "evaluate_cli", "report_cli", "bias_cli"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def part_of(path):
    """The folder or file directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source, package=()):
    """Parts of convexdistill that a source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            found |= {f"{module}.{name.name}" for name in node.names}
    names = [name.split(".") for name in found if name.split(".")[0] == "convexdistill"]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in names}


def imports_of(path):
    package = ("convexdistill", *path.relative_to(PACKAGE).parts[:-1])
    found = imports(path.read_text("utf-8"), package)
    return {name if name in PARTS else "__init__" for name in found}


def test_the_reader_of_imports_sees_every_kind():
    source = (
        "import convexdistill.a\nfrom convexdistill import b\ndef f():\n    from convexdistill.c.d import e\n"
        "from . import g\nfrom .h import i\nfrom ..j import k\nimport torch\nimport convexdistill\n"
    )
    assert imports(source, ("convexdistill", "x")) == {"a", "b", "c", "x", "j", "__init__"}


@pytest.mark.parametrize("path", [file for file in FILES if part_of(file) != "__init__"], ids=str)
def test_a_file_imports_only_what_stands_above_it(path):
    mine = part_of(path)
    assert mine in RANK, f"give {mine} a place in ORDER"
    below = {other for other in imports_of(path) - {mine} if RANK.get(other, len(ORDER)) >= RANK[mine]}
    assert not below, f"{path.relative_to(PACKAGE)} imports {below}"


def test_the_layers_need_nothing_but_the_errors():
    used = set().union(*(imports_of(path) for path in FILES if part_of(path) == "layers"))
    assert used == {"layers", "errors"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    "name",
    [
        "layers.ridge",
        "layers.Ridge",
        "layers.least_squares",
        "layers.LeastSquares",
        "layers.kernel_ridge",
        "layers.KernelRidge",
        "layers.logistic_regression",
        "layers.LogisticRegression",
        "layers.loo_residuals",
        "layers.ConvexLayer",
        "layers.backends",
        "ConvexHead",
        "data.load",
        "select.choose",
        "features.pool",
        "accumulate",
        "Moments",
        "Moments.merge",
        "Moments.save",
        "Moments.load",
        "distill.closed_form",
        "distill.cross_entropy",
        "distill.online_ridge",
        "distill.second_order",
        "distill.images",
        "load",
        "DistilledSet.save",
        "DistilledSet.train",
        "evaluate.evaluate",
        "evaluate.matrix",
    ],
)
def test_the_public_names_are_there(name):
    found = cd
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.parametrize("module", [cd, *(getattr(cd, name) for name in ("layers", "data", "features"))])
def test_what_is_announced_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
