"""Who may import whom, and Python 3.9 for all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.imports import LIBRARY, ROOT, imports, module_name, part_of, source_files
from helpers.places import MODULE, REPOSITORY

# Each part of the library and the other parts that it may import.
MAY_IMPORT = {
    "engine": set(),
    "training": {"engine", "dataset"},
    "dataset": {"engine"},
    "dirlab": {"engine"},
    "case": {"engine", "terms"},
    "jobs": {"terms"},
    "terms": {"engine"},
    "report": {"engine", "terms"},
    "cohort": {"engine", "case", "dataset", "report", "terms"},
    "worker": {"engine", "case", "cohort", "jobs", "report", "terms"},
    # The command “view” starts the viewer; the command line needs it for nothing else.
    "cli": {"engine", "training", "dataset", "dirlab", "report", "case", "cohort", "terms", "viewer"},
    "scene": {"engine", "jobs", "terms"},
    "panel": {"engine", "cohort", "scene", "jobs", "terms"},
    # Of a study of many pairs: its files, and what people say of them.
    "viewer": {"engine", "scene", "jobs", "terms", "cohort"},
}
SLICER = {"slicer", "vtk", "vtkmodules", "mrml", "ScriptedLoadableModule"}
QT = {"qt", "ctk", "PythonQt", "PySide2", "PySide6", "PyQt5", "PyQt6"}
TORCH = {"torch", "torchvision", "lightning", "monai", "safetensors"}
OUTSIDE_SLICER = ("engine", "training", "dataset", "dirlab", "report", "case", "cohort", "worker", "cli")
STANDARD_LIBRARY_ALONE = ("jobs", "terms")
FORBIDDEN = {
    **dict.fromkeys(OUTSIDE_SLICER, SLICER | QT),
    **dict.fromkeys(STANDARD_LIBRARY_ALONE, SLICER | QT | TORCH),
    "scene": QT | TORCH,
    "panel": TORCH,
    "viewer": QT,
}
# Installed without any extra, so importable everywhere but in the parts that an extra is for.
ENGINE_LIBRARIES = {"torch", "numpy", "SimpleITK", "safetensors"}
# The engine's plain data types: what the parts inside 3D Slicer may use of it.
PLAIN = ("errors", "options", "result", "result_folder", "threads")


def violations(path: Path, package_root: Path = MODULE) -> list[str]:
    """What a file imports against the rules, one line each."""
    part = part_of(module_name(path, package_root))
    found = []
    for name, line, _ in imports(path, package_root):
        own = name.split(".")[0] == ROOT
        target = part_of(name)
        wrong = (target in MAY_IMPORT and target not in MAY_IMPORT[part] | {part}) if own else False
        if wrong or name.split(".")[0] in FORBIDDEN[part]:
            found.append(f"{path.name}:{line}: {part} must not import {name}")
    return found


def loaded_with(module: str) -> set[str]:
    """Names of all modules that importing one of ours loads at once, as far as they are ours or next to ours."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parents = name.rpartition(".")[0]
        path = MODULE.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if parents:
            waiting.append(parents)
        if file.is_file():
            waiting.extend(found.name for found in imports(file) if found.at_once)
    return seen


def circles(package_root: Path = MODULE) -> list[set[str]]:
    """Modules that import each other, by whatever way round, for type checkers alone included."""
    files = {module_name(path, package_root): path for path in (package_root / ROOT).rglob("*.py")}
    ahead: dict[str, set[str]] = {}
    for name, path in files.items():
        found = (imported.name for imported in imports(path, package_root, typing=True))
        # What is imported is a module, or something of one.
        targets = {target if target in files else target.rpartition(".")[0] for target in found}
        ahead[name] = targets & set(files) - {name}
    reached = {name: _reached(name, ahead) for name in files}
    rings = [{other for other in reached[name] if name in reached[other]} for name in files if name in reached[name]]
    return [ring for n, ring in enumerate(rings) if ring not in rings[:n]]


def _reached(start: str, ahead: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = set(ahead[start])
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= ahead[name] - seen
    return seen


# The checks


def test_no_two_modules_import_each_other() -> None:
    assert circles() == []


@pytest.mark.parametrize("path", source_files(), ids=lambda path: module_name(path, MODULE).partition(".")[2])
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    part = part_of(module_name(path, MODULE))
    assert part in MAY_IMPORT, f"decide in this test what {part} may import"
    assert not violations(path)


@pytest.mark.parametrize(
    "path", sorted((LIBRARY / "engine").rglob("*.py")), ids=lambda path: module_name(path, LIBRARY)
)
def test_the_engine_uses_torch_numpy_and_simpleitk_alone(path: Path) -> None:
    allowed = ENGINE_LIBRARIES | set(_standard_library()) | {ROOT, "__future__"}
    assert {found.name.split(".")[0] for found in imports(path)} <= allowed


def _standard_library() -> set[str]:
    names = getattr(sys, "stdlib_module_names", None)
    if names is None:
        pytest.skip("Python 3.9 does not list its own modules")
    return set(names)


@pytest.mark.parametrize(
    "file",
    [
        "engine/result_folder.py",
        "engine/threads.py",
        "jobs/client.py",
        "jobs/messages.py",
        "jobs/signals.py",
        "worker/pace.py",
    ],
)
def test_what_every_side_speaks_needs_the_standard_library_alone(file: str) -> None:
    found = {found.name.split(".")[0] for found in imports(LIBRARY / file)}
    assert found <= _standard_library() | {"__future__", ROOT}


@pytest.mark.parametrize("part", ["scene", "panel", "jobs", "terms", "viewer"])
def test_what_runs_beside_a_scene_never_loads_torch(part: str) -> None:
    files = [*(LIBRARY / part).rglob("*.py"), *LIBRARY.glob(f"{part}.py")]
    for path in files:
        ours = loaded_with(module_name(path, MODULE))
        assert not {name.split(".")[0] for name in ours} & TORCH, path.name


def existing_plain_modules() -> list[str]:
    return [f"{ROOT}.engine.{name}" for name in PLAIN if (LIBRARY / "engine" / f"{name}.py").is_file()]


@pytest.mark.parametrize("module", existing_plain_modules())
def test_the_plain_data_types_need_no_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert not {name.split(".")[0] for name in loaded_with(module)} & TORCH


def test_the_entry_point_of_slicer_loads_no_torch() -> None:
    for path in MODULE.glob("*.py"):
        names = set().union(*(loaded_with(found.name) for found in imports(path) if found.at_once), set())
        assert not {name.split(".")[0] for name in names} & TORCH


def python_files() -> list[Path]:
    return sorted([*MODULE.rglob("*.py"), *(REPOSITORY / "Testing").rglob("*.py")])


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_is_python_3_9(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path), feature_version=(3, 9))
    uses_unions = any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) for node in _annotations(tree))
    assert not uses_unions or "from __future__ import annotations" in text


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                yield from ast.walk(annotation)


# The checks can fail


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("engine/a.py", "import slicer"),
        ("engine/a.py", "from vtk.util import numpy_support"),
        ("engine/networks/a.py", "from ...scene import nodes"),
        ("engine/a.py", "def f():\n    from ..report import write_report"),
        ("engine/a.py", f"import {ROOT}.training.data"),
        ("engine/__init__.py", "from .. import cli"),
        ("training/a.py", "from ..cli import main"),
        ("worker/a.py", "import qt"),
        ("report/a.py", "from ..panel import widget"),
        ("scene/a.py", "import torch.nn"),
        ("scene/a.py", "try:\n    import qt\nexcept ImportError:\n    qt = None"),
        ("panel/a.py", "class W:\n    def run(self):\n        import torch"),
        ("panel/a.py", "from ..worker import main"),
        ("viewer/a.py", "from ..panel.widget import Widget"),
        ("worker/a.py", "from ..viewer import app"),
        ("cli/a.py", "from ..panel import widget"),
        ("case.py", "from .cli.files import write_image"),
        ("jobs/a.py", "from ..engine.errors import OptionError"),
        ("jobs/a.py", "import torch"),
        ("terms/a.py", "import qt"),
        ("terms/a.py", "from ..scene import results"),
        ("terms/a.py", "from ..jobs.messages import Job"),
        ("scene/a.py", "from ..worker.pace import Pace"),
        ("viewer/a.py", "from ..worker import main"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / ROOT / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert len(violations(path, tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "engine/networks/a.py",
            "from ..errors import ModelError\nfrom .blocks import Encoder\nfrom ... import __version__",
        ),
        ("scene/a.py", "import slicer, vtk\nfrom ..engine.result import RegistrationResult"),
        ("panel/a.py", "import qt\nfrom ..scene import nodes\nfrom . import widget"),
        ("scene/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("cli/a.py", "from ..training.run import train\nimport typer"),
        ("cli/a.py", "from ..case import read_case"),
        (
            "worker/a.py",
            "from ..case import read_case\nfrom ..jobs.messages import Job\nfrom ..report.page import write_report",
        ),
        (
            "panel/a.py",
            "from ..jobs.messages import Job\nfrom ..terms.settings import missing\nfrom ..scene import results",
        ),
        ("scene/a.py", "from ..terms.inputs import Inputs\nfrom ..engine.errors import ImageError"),
    ],
)
def test_an_allowed_import_is_no_violation(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / ROOT / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert violations(path, tmp_path) == []


def test_a_circle_is_found_also_by_way_of_a_third_and_for_type_checkers_alone(tmp_path: Path) -> None:
    for name, source in {
        "a": "from .b import B",
        "b": "def f():\n    from . import c",
        "c": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {ROOT}.a",
        "d": "from .a import A",
    }.items():
        (tmp_path / ROOT).mkdir(exist_ok=True)
        (tmp_path / ROOT / f"{name}.py").write_text(source, encoding="utf-8")
    assert circles(tmp_path) == [{f"{ROOT}.{name}" for name in "abc"}]


def test_what_a_module_loads_is_followed_through_its_imports() -> None:
    assert "torch" in loaded_with(f"{ROOT}.engine.registration.register")
    assert f"{ROOT}.engine.errors" in loaded_with(f"{ROOT}.engine.options")


@pytest.mark.parametrize(
    "source", ["match x:\n    case 1: pass", "with (open(a) as b, open(c) as d): pass\nmatch x:\n    case _: pass"]
)
def test_newer_syntax_is_not_python_3_9(source: str) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(source, feature_version=(3, 9))
