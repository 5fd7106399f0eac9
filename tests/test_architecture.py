"""The rooms of the house: no package imports one above it, so there is no circle between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dualm"

FLOORS = (  # from the ground up; a package may import those before it
    "errors",
    "registry",
    "keys",
    "randomness",
    "files",
    "config",
    "runs",
    "data",
    "model",
    "objectives",
    "plan",
    "likelihood",
    "generation",
    "language_model",
    "evaluation",
    "interop",
    "training",
    "sweep",
    "analysis",
    "commands",
    "cli",
    "__main__",
)
ONE_WAY_ONLY = {  # what may never be imported, wherever it stands
    "model": ("objectives", "plan"),
    "likelihood": ("training",),
    "generation": ("training",),
    "evaluation": ("training", "sweep"),
    "analysis": ("training", "model"),
}


def imports(path: Path) -> Iterator[str]:
    """The packages of dualm that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "dualm" else [f"dualm.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("dualm."))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]  # the façade: `dualm.load`


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up(path: Path) -> None:
    here = room(path)
    for other in imports(path):
        if other == here or other.startswith("__"):
            continue
        assert FLOORS.index(other) < FLOORS.index(here), f"{path.name} imports {other}, which stands above {here}"
        assert other not in ONE_WAY_ONLY.get(here, ())


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOORS)
    assert all((folder / "__init__.py").exists() for folder in PACKAGE.rglob("*/") if any(folder.glob("*.py")))


def test_a_import_that_goes_up_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "room.py"
    file.write_text("def f():\n    from dualm.training.loop import train\n    import dualm.sweep\n")
    assert list(imports(file)) == ["training", "sweep"]
