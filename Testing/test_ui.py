"""The panel's ``.ui`` in a real Qt: every widget that the code uses is in it, of the class that it needs."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers.places import MODULE

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QFile, Qt
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QTableView,
    QTabWidget,
    QToolButton,
    QWidget,
)

PANEL = MODULE / "DeepRegAttentionLib" / "panel"
UI = MODULE / "Resources" / "UI" / "DeepRegAttention.ui"


# Stand-ins: the size and the look of Slicer's own widgets, nothing else


class CollapsibleButton(QGroupBox):
    def collapse(self, collapsed: bool) -> None:
        self.setMaximumHeight(26 if collapsed else 10_000)
        for child in self.findChildren(QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly):
            child.setHidden(collapsed)


class NodeComboBox(QComboBox):
    pass


class SliderWidget(QWidget):
    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QSlider(Qt.Orientation.Horizontal))
        layout.addWidget(QDoubleSpinBox())


class PathLineEdit(QWidget):
    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLineEdit())
        layout.addWidget(QToolButton())


STAND_INS = {
    "qMRMLWidget": QWidget,
    "qMRMLNodeComboBox": NodeComboBox,
    "qMRMLTableView": QTableView,
    "ctkCollapsibleButton": CollapsibleButton,
    "ctkSliderWidget": SliderWidget,
    "ctkRangeWidget": SliderWidget,
    "ctkPathLineEdit": PathLineEdit,
}


class Loader(QUiLoader):
    def createWidget(self, kind: str, parent: Any = None, name: str = "") -> QWidget:  # noqa: N802
        if kind not in STAND_INS:
            return super().createWidget(kind, parent, name)
        widget = STAND_INS[kind](parent)
        widget.setObjectName(name)
        widget.setProperty("kind", kind)
        return widget


@pytest.fixture(scope="module")
def panel() -> Iterator[QWidget]:
    application = QApplication.instance() or QApplication([])
    file = QFile(str(UI))
    assert file.open(QFile.OpenModeFlag.ReadOnly)
    widget = Loader().load(file)
    file.close()
    assert widget is not None
    yield widget
    widget.deleteLater()
    application.processEvents()


def classes() -> dict[str, str]:
    """Class of each widget of the ``.ui``, by name."""
    return {node.get("name", ""): node.get("class", "") for node in ElementTree.parse(UI).iter("widget")}


TABLES = ("WIDGETS", "COMBOS", "_WIDGETS", "_TEXTS")


def used_names() -> set[str]:
    """Every ``ui.name`` in the panel's code, and what its tables of widgets name."""
    names: set[str] = set()
    for path in PANEL.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"\b_?ui\.(\w+)", text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in TABLES:
                values = [value for value in ast.walk(node.value) if isinstance(value, ast.Constant)]
                names |= {value.value for value in values if value.value in classes() or value.value[0].islower()}
    return names


def bound(table: str) -> dict[str, str]:
    """A table of ``parameters.py``: widget by parameter."""
    tree = ast.parse((PANEL / "parameters.py").read_text(encoding="utf-8"))
    found = {getattr(n.targets[0] if isinstance(n, ast.Assign) else n.target, "id", ""): n for n in tree.body
             if isinstance(n, (ast.Assign, ast.AnnAssign))}  # fmt: skip
    node = found[table]
    return ast.literal_eval(node.value)


def parameters() -> dict[str, str]:
    """Type of each parameter, as written."""
    tree = ast.parse((PANEL / "parameters.py").read_text(encoding="utf-8"))
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Parameters"]
    return {n.target.id: ast.unparse(n.annotation) for n in kind.body if isinstance(n, ast.AnnAssign)}


# Names


def test_every_widget_that_the_code_uses_is_in_the_ui(panel: QWidget) -> None:
    used = used_names() - set(parameters()) - settings_names()
    assert len(used) > 40
    missing = [name for name in used if panel.findChild(QWidget, name) is None]
    assert missing == []


def settings_names() -> set[str]:
    return {"model_file", "similarity", "regularization", "regularization_map", "landmark_weight"}


def test_every_input_and_button_of_the_ui_is_used(panel: QWidget) -> None:
    passive = {"QLabel", "QWidget", "QFrame", "qMRMLWidget", "ctkCollapsibleButton"}
    active = {name for name, kind in classes().items() if kind not in passive}
    assert active - used_names() == set()


def test_names_are_unique() -> None:
    names = [node.get("name") for node in ElementTree.parse(UI).iter("widget")]
    assert len(names) == len(set(names))


# Binding


# No plain numbers: 3D Slicer would take the range of their widget away.
FITS = {
    "bool": {"QCheckBox", "QPushButton"},
    "Part": {"ctkSliderWidget"},
    "Spacing": {"QDoubleSpinBox"},
    "Steps": {"QSpinBox"},
    "Strength": {"QDoubleSpinBox"},
    "Weight": {"QDoubleSpinBox"},
    "Structures": {"qMRMLNodeComboBox"},
}


@pytest.mark.parametrize(("parameter", "widget"), bound("WIDGETS").items())
def test_a_parameter_is_bound_to_a_widget_that_can_hold_it(parameter: str, widget: str) -> None:
    kind = parameters()[parameter]
    if kind.startswith("slicer.vtkMRML"):
        wanted = {"qMRMLNodeComboBox"}
    elif kind.startswith("Annotated[float"):
        wanted = {"ctkSliderWidget"}
    else:
        wanted = FITS[kind]
    assert classes()[widget] in wanted


@pytest.mark.parametrize(("parameter", "value"), bound("MODELS_OWN").items())
def test_what_stands_for_the_models_own_is_the_least_value_and_has_a_text(
    panel: QWidget, parameter: str, value: float
) -> None:
    widget = panel.findChild(QWidget, bound("WIDGETS")[parameter])
    assert widget.minimum() == value
    assert widget.specialValueText() == "the model’s own"
    widget.setValue(value)
    assert widget.text() == "the model’s own"
    widget.stepUp()
    assert widget.value() >= 0


@pytest.mark.parametrize(("parameter", "widget"), bound("COMBOS").items())
def test_a_choice_is_a_text_on_a_combo_box(parameter: str, widget: str) -> None:
    assert parameters()[parameter] == "str"
    assert classes()[widget] == "QComboBox"


def test_every_selector_gets_the_scene() -> None:
    receivers = {node.findtext("receiver") for node in ElementTree.parse(UI).iter("connection")}
    assert receivers == {name for name, kind in classes().items() if kind in ("qMRMLNodeComboBox", "qMRMLTableView")}


def test_label_maps_do_not_pass_for_volumes() -> None:
    for node in ElementTree.parse(UI).iter("widget"):
        if node.get("class") == "qMRMLNodeComboBox" and node.get("name") != "initialTransformSelector":
            (children,) = [p for p in node.iter("property") if p.get("name") == "showChildNodeTypes"]
            assert children.findtext("bool") == "false"


# What a person sees


def test_every_input_is_explained_by_a_tooltip(panel: QWidget) -> None:
    kinds = (QComboBox, QCheckBox, QSpinBox, QDoubleSpinBox, SliderWidget, PathLineEdit)
    names = [name for name in used_names() if isinstance(panel.findChild(QWidget, name), kinds)]
    assert len(names) > 30
    assert [name for name in names if not panel.findChild(QWidget, name).toolTip()] == []


SECTIONS = ("guidanceSection", "advancedSection", "outputsSection", "logSection")
ROOM = 593
"""Height in pixels that 3D Slicer 5.8 leaves a panel in a window of 1500x950, with its help and its data probe."""


def open_section(panel: QWidget, name: str) -> None:
    """One section of the tab Register open, all others closed, as the panel keeps them."""
    for section in SECTIONS:
        panel.findChild(CollapsibleButton, section).collapse(section != name)
    for widget in ("modelText", "sampleButton"):
        panel.findChild(QWidget, widget).setVisible(not name)


def test_the_tabs_are_in_their_order(panel: QWidget) -> None:
    tabs = panel.findChild(QTabWidget, "tabs")
    assert [tabs.tabText(n) for n in range(tabs.count())] == ["Register", "Inspect", "Judge", "Batch"]
    for page, widget in enumerate(("registerButton", "overlaySelector", "measuresTable", "pairsTable")):
        assert tabs.widget(page).findChild(QWidget, widget) is not None
    for section in SECTIONS:
        assert tabs.widget(0).findChild(CollapsibleButton, section) is not None


def open_page(panel: QWidget, number: int) -> None:
    """A tab that alone decides how high the panel must be, as the panel has it."""
    tabs = panel.findChild(QTabWidget, "tabs")
    tabs.setCurrentIndex(number)
    for other in range(tabs.count()):
        how = QSizePolicy.Policy.Preferred if other == number else QSizePolicy.Policy.Ignored
        tabs.widget(other).setSizePolicy(how, how)


@pytest.mark.parametrize(("page", "opened"), [*((0, name) for name in ("", *SECTIONS)), (1, ""), (2, ""), (3, "")])
def test_every_tab_fits_the_window_without_scrolling(panel: QWidget, page: int, opened: str) -> None:
    panel.findChild(QWidget, "dependencySection").hide()
    open_page(panel, page)
    open_section(panel, opened)
    panel.findChild(QLabel, "modelText").setText("A line of text.\n" * 4)
    panel.findChild(QLabel, "statusLabel").setText("29 s · correlation 0.9256 → 0.9874 · no folds")
    panel.resize(400, ROOM)
    panel.show()
    QApplication.processEvents()
    assert panel.minimumSizeHint().height() <= ROOM


@pytest.mark.parametrize("page", range(4))
def test_it_fits_a_narrow_panel(panel: QWidget, tmp_path: Path, page: int) -> None:
    open_section(panel, "advancedSection")
    panel.findChild(QTabWidget, "tabs").setCurrentIndex(page)
    assert panel.minimumSizeHint().width() <= 400
    panel.resize(420, 1500)
    picture = panel.grab()
    assert picture.save(str(tmp_path / "panel.png"))
    assert picture.width() == 420
    for label in panel.findChildren(QLabel):
        if label.wordWrap() is False and label.isVisibleTo(panel):
            assert label.width() >= label.sizeHint().width(), label.objectName()
