"""The one list of inputs, and those who spell it out: files, nodes, parameters, options."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields

import pytest
from DeepRegAttentionLib.case import Case
from DeepRegAttentionLib.cli.register import register as command
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.terms.inputs import CALLED, INPUTS, NEEDS, REQUIRED, Inputs
from helpers.places import REPOSITORY

LIBRARY = REPOSITORY / "DeepRegAttention" / "DeepRegAttentionLib"


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def defined(file: str, name: str) -> ast.AST:
    """A class or function of a file that not every Python can import."""
    tree = ast.parse((LIBRARY / file).read_text(encoding="utf-8"))
    (node,) = [node for node in tree.body if getattr(node, "name", "") == name]
    return node


def arguments_of(function: ast.AST) -> set[str]:
    return {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}


def test_a_case_has_every_input_and_where_it_came_from() -> None:
    assert [item.name for item in fields(Case)] == [*INPUTS, "files"]


def test_what_guides_the_engine_are_inputs() -> None:
    assert {item.name for item in fields(Guidance)} <= set(INPUTS) - set(REQUIRED)


def test_the_command_line_takes_every_input() -> None:
    assert set(INPUTS) <= set(inspect.signature(command).parameters)


def test_nodes_are_written_for_every_input() -> None:
    assert arguments_of(defined("scene/export.py", "write_steps")) == {"folder", *INPUTS}


def test_the_panel_keeps_every_input() -> None:
    body = defined("panel/parameters.py", "Parameters").body
    kept = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    assert kept[: len(INPUTS)] == [camel(name) for name in INPUTS]


def test_scripts_give_every_input() -> None:
    function = defined("panel/scripting.py", "register")
    assert {f"{name}Node" if name in REQUIRED else name for name in INPUTS} <= arguments_of(function)
    assigned = [node for node in function.body if isinstance(node, ast.Assign) and node.targets[0].id == "given"]
    (table,) = [node.value for node in assigned]
    assert [key.value for key in table.keys] == list(INPUTS)


def test_every_input_has_a_name_and_needs_only_inputs() -> None:
    assert set(CALLED) == set(INPUTS)
    assert len(set(CALLED.values())) == len(INPUTS)
    assert set(NEEDS) | set(NEEDS.values()) <= set(INPUTS)


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_given_is_told(name: str) -> None:
    assert Inputs(**{name: "x"}).to_dict() == {name: "x"}
