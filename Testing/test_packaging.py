"""What is shipped: CMake's lists against the tree, the metadata of the extension index, imports without torch."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from helpers.places import MODULE, REPOSITORY

TOP = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
LISTS = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
HOMEPAGE = "https://github.com/DeepRegAttention/SlicerDeepRegAttention"
RAW = "https://raw.githubusercontent.com/DeepRegAttention/SlicerDeepRegAttention/main/"


def listed(variable: str) -> list[str]:
    """The entries of a list of the module's CMakeLists.txt."""
    (content,) = re.findall(rf"set\({variable}\n(.*?)\n\s*\)", LISTS, re.DOTALL)
    return content.replace("${MODULE_NAME}", "DeepRegAttention").split()


def files(folder: str, *endings: str) -> list[str]:
    """Files of the module, relative to it; those that Python makes are left out."""
    found = (path for path in (MODULE / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(MODULE).as_posix() for path in found if not endings or path.suffix in endings)


def metadata(name: str) -> str:
    """The double-quoted value of a variable of the top CMakeLists.txt."""
    (value,) = re.findall(rf'^set\({name} "([^"]*)"\)$', TOP, re.MULTILINE)
    return value


# The module's files


def test_every_script_is_shipped_once_and_exists() -> None:
    scripts = listed("MODULE_PYTHON_SCRIPTS")
    assert scripts == ["DeepRegAttention.py", *files("DeepRegAttentionLib", ".py")]


def test_every_resource_is_shipped_once_and_exists() -> None:
    others = [path for path in files("DeepRegAttentionLib") if not path.endswith((".py", ".pyc"))]
    assert listed("MODULE_PYTHON_RESOURCES") == [*files("Resources"), *others]


@pytest.mark.parametrize("kind", ["Models", "Presets", "Samples", "Training", "UI", "Icons"])
def test_each_kind_of_resource_is_there(kind: str) -> None:
    assert any(path.startswith(f"Resources/{kind}/") for path in listed("MODULE_PYTHON_RESOURCES"))


def test_every_self_test_is_run_by_ctest() -> None:
    run = re.findall(
        r"SCRIPT (\w+\.py)", (MODULE / "Testing" / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
    )
    assert sorted(run) == sorted(path.name for path in (MODULE / "Testing" / "Python").glob("*Test.py"))
    assert "slicer_add_python_unittest(SCRIPT ${MODULE_NAME}.py)" in LISTS
    assert "add_subdirectory(Testing/Python)" in LISTS
    assert "WITH_GENERIC_TESTS" in LISTS


def test_the_names_of_the_self_tests_are_unique_in_an_application() -> None:
    for path in (MODULE / "Testing" / "Python").glob("*.py"):
        assert path.stem.startswith("DeepRegAttention")


# The extension index


def test_the_project_comes_first() -> None:
    commands = re.findall(r"^\s*(\w+)\s*\(([^)]*)\)", TOP, re.MULTILINE)
    assert commands[0][0] == "cmake_minimum_required"
    assert commands[1] == ("project", "DeepRegAttention")


def test_the_extension_depends_on_pytorch() -> None:
    assert metadata("EXTENSION_DEPENDS") == "PyTorch"
    assert metadata("EXTENSION_CATEGORY") == "Registration"
    assert metadata("EXTENSION_CONTRIBUTORS")
    assert len(metadata("EXTENSION_DESCRIPTION")) > 60
    assert metadata("EXTENSION_HOMEPAGE") == HOMEPAGE


def test_the_pictures_of_the_index_are_in_the_repository() -> None:
    urls = [metadata("EXTENSION_ICONURL"), *metadata("EXTENSION_SCREENSHOTURLS").split()]
    assert len(urls) >= 3
    for url in urls:
        assert url.startswith(RAW)
        assert url.endswith(".png")
        picture = REPOSITORY / url[len(RAW) :]
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 400_000


def test_the_icons_are_128_pixels_wide_and_high() -> None:
    for path in (REPOSITORY / "DeepRegAttention.png", MODULE / "Resources" / "Icons" / "DeepRegAttention.png"):
        header = path.read_bytes()[:24]
        assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (128, 128)


def test_the_entry_for_the_index_follows_its_schema() -> None:
    entry = json.loads((REPOSITORY / "Resources" / "DeepRegAttention.json").read_text(encoding="utf-8"))
    allowed = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies"}
    allowed |= {"build_subdirectory", "enabled", "tier"}
    assert set(entry) <= allowed
    assert {"$schema", "category", "scm_url", "scm_revision", "scm_type"} <= set(entry)
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["build_dependencies"] == metadata("EXTENSION_DEPENDS").split()
    assert entry["category"] == metadata("EXTENSION_CATEGORY")
    assert entry["scm_url"] == f"{HOMEPAGE}.git"
    assert entry["tier"] in (1, 3, 5)


def test_the_licence_lies_in_the_root() -> None:
    assert (REPOSITORY / "LICENSE.txt").is_file()


# The module in the application


def test_the_entry_point_only_wires() -> None:
    assert len((MODULE / "DeepRegAttention.py").read_text(encoding="utf-8").splitlines()) < 160


# slicer and vtk are real ones (slicer-core); what only the application has is played.
BLOCKED_AND_PLAYED = """
import sys, types
import slicer, vtk
class Played(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *a, **k: None})
for name in ("slicer.i18n", "slicer.parameterNodeWrapper", "slicer.ScriptedLoadableModule", "qt", "ctk"):
    sys.modules[name] = Played(name)
for name in ("torch", "safetensors", "PySide6", "matplotlib", "typer"):
    sys.modules[name] = None
sys.modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda kind: kind
"""


def shipped_for_slicer() -> list[str]:
    return [
        "DeepRegAttention.py",
        *files("DeepRegAttentionLib/panel", ".py"),
        *files("DeepRegAttentionLib/scene", ".py"),
        *files("DeepRegAttentionLib/terms", ".py"),
        *files("DeepRegAttentionLib/jobs", ".py"),
    ]


def test_every_module_is_imported_without_torch() -> None:
    modules = [path[:-3].replace("/", ".").replace(".__init__", "") for path in shipped_for_slicer()]
    code = f"{BLOCKED_AND_PLAYED}\nimport importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_what_starts_with_the_application_imports_only_it_and_the_standard_library() -> None:
    tree = ast.parse((MODULE / "DeepRegAttention.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names <= {"__future__", "pathlib", "sys", "typing", "slicer"}


@pytest.mark.parametrize("path", shipped_for_slicer())
def test_translated_texts_are_plain_strings(path: str) -> None:
    """Qt's tools find only literals; an f-string would never be translated."""
    for node in ast.walk(ast.parse((MODULE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            assert len(node.args) == 1
            assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
            assert isinstance(node.args[0].value, str)


@pytest.mark.parametrize("path", shipped_for_slicer())
def test_qt_6_has_it_too(path: str) -> None:
    text = (MODULE / path).read_text(encoding="utf-8")
    assert not re.findall(r"\.setMargin\(|QRegExp|QTextCodec|currentIndexChanged\(QString\)|qt\.Signal|exec_\(", text)


def test_no_path_of_a_machine_is_shipped() -> None:
    for path in [REPOSITORY / "CMakeLists.txt", *(MODULE / p for p in listed("MODULE_PYTHON_SCRIPTS"))]:
        assert not re.search(r"/home/|/root/|/work/|[A-Z]:\\\\", path.read_text(encoding="utf-8")), path.name


def test_the_index_stays_small() -> None:
    sizes = {path: (MODULE / path).stat().st_size for path in listed("MODULE_PYTHON_RESOURCES")}
    assert sum(sizes.values()) < 30e6, max(sizes, key=lambda path: sizes[path])
