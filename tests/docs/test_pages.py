"""The pages agree with the code: links lead somewhere, names exist, what a command prints is what it prints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import dualm
from dualm.cli import main
from tests.docs.pages import ROOT, anchors, links
from tests.test_architecture import FLOORS

ARCHITECTURE = "docs/architecture.md"
PAGES = ["README.md", "CONTRIBUTING.md", ARCHITECTURE, "docs/extend.md", "docs/recipe-keys.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(str(target)), link


def test_the_table_of_keys_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "--markdown"]) == 0
    committed = (ROOT / "docs/recipe-keys.md").read_text()
    assert committed == capsys.readouterr().out, "print it again: dualm keys --markdown > docs/recipe-keys.md"


def test_the_rooms_are_those_of_the_code() -> None:
    rooms = re.findall(r"^\| `([\w]+)` \|", (ROOT / ARCHITECTURE).read_text(), re.MULTILINE)
    assert tuple(rooms) == FLOORS


def test_the_functions_of_the_walks_exist() -> None:
    """In the walks' tables: what happens, its `names`, their `file` below dualm/."""
    rows = re.findall(r"^\|[^|]+\| (`[^|]+`) \| `([\w/]+\.py)` \|$", (ROOT / ARCHITECTURE).read_text(), re.MULTILINE)
    assert len(rows) > 20
    for cell, file in rows:
        defined = definitions(ROOT / "dualm" / file)
        assert set(re.findall(r"`([\w.]+)`", cell)) <= defined, file


def definitions(path: Path) -> set[str]:
    """The functions, classes, methods (`Class.method`) and variables that a module defines."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            methods = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{method.name}" for method in methods if isinstance(method, ast.FunctionDef)}
    return found


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["license"]) == ("dualm", "Apache-2.0")
    assert str(citation["version"]) == dualm.__version__
    assert citation["message"]
    assert citation["authors"] == [{"name": "The dualm authors"}]
    for reference in citation["references"]:
        assert reference.keys() >= {"type", "title", "authors"}
