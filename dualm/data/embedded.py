"""The embedded corpus: English prose that every machine with Python has on its disk (about 2 MB).

A document is the docstrings of one standard-library module, or one topic of Python's help. The sources are
parsed, never imported, so nothing runs and the order is the same every time.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo"}
TOPICS = "pydoc_data/topics.py"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache  # parsing takes seconds, and preparing a corpus reads it more than once
def documents() -> tuple[str, ...]:
    """Modules in the order of their paths, then the help topics by name; no docstring comes twice."""
    library = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    texts = []
    for path in _modules(library):
        fresh = [text for text in dict.fromkeys(_docstrings(_parse(path))) if text not in seen]
        seen.update(fresh)
        texts.append("\n\n".join(fresh))
    if (library / TOPICS).is_file():
        texts += _topics(_parse(library / TOPICS))
    return tuple(dict.fromkeys(filter(None, texts)))


def _modules(library: Path) -> list[Path]:
    paths = [path.relative_to(library) for path in library.rglob("*.py")]
    kept = [path for path in paths if SKIPPED_FOLDERS.isdisjoint(path.parts)]
    return [library / path for path in sorted(kept, key=Path.as_posix)]


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's string literals
        return ast.parse(path.read_bytes())


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of module, classes and functions, in the order of the source."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        text = ast.get_docstring(node, clean=True)
        if text:
            yield text


def _topics(tree: ast.Module) -> list[str]:
    """The texts of `topics = {name: text, ...}`, by name."""
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    topics = {name: text for table in tables for name, text in ast.literal_eval(table).items()}
    return [inspect.cleandoc(topics[name]) for name in sorted(topics)]
