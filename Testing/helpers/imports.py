"""Who imports whom, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .places import MODULE

ROOT = "DeepRegAttentionLib"
LIBRARY = MODULE / ROOT


class Import(NamedTuple):
    """One import: the full name, its line, and whether it happens on import of the module."""

    name: str
    line: int
    at_once: bool


def module_name(path: Path, package_root: Path) -> str:
    parts = path.relative_to(package_root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path, package_root: Path = MODULE, typing: bool = False) -> tuple[Import, ...]:
    """Every import of a file, relative ones resolved; those for type checkers alone only if asked for."""
    package = list(path.relative_to(package_root).parent.parts)
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), package, True, typing))


def _imports(node: ast.AST, package: list[str], at_once: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if not typing and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            start = package[: len(package) - child.level + 1] if child.level else []
            base = [*start, *([child.module] if child.module else [])]
            yield from (Import(".".join([*base, alias.name]), child.lineno, at_once) for alias in child.names)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, package, at_once and not inside, typing)


def part_of(name: str) -> str:
    """The part of the library that a full module name belongs to; empty for the library itself."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[0] == ROOT else ""


def source_files() -> list[Path]:
    return sorted(path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def edges() -> set[tuple[str, str]]:
    """Each part of the library with each other part that it imports, also inside functions."""
    parts = {path: part_of(module_name(path, MODULE)) for path in source_files()}
    found = {(part, part_of(found.name)) for path, part in parts.items() for found in imports(path)}
    return {(part, target) for part, target in found if target != part and target in parts.values()}
