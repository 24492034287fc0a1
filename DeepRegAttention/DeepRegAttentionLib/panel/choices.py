"""Combo boxes that show a translated text and hold a value that never changes."""

from __future__ import annotations

from typing import Iterable, List, NamedTuple

import qt
from slicer.i18n import tr as _

from ..terms import settings as session


class Choice(NamedTuple):
    """One entry: the value that is kept, what is shown, what the tooltip says."""

    value: str
    text: str
    tip: str = ""


def fill(combo: qt.QComboBox, choices: Iterable[Choice]) -> None:
    """Replace the entries, keeping the chosen one if it is still there; nobody is told."""
    chosen, was = value_of(combo), combo.blockSignals(True)
    combo.clear()
    for index, choice in enumerate(choices):
        combo.addItem(choice.text, choice.value)
        combo.setItemData(index, choice.tip, qt.Qt.ToolTipRole)
    select(combo, chosen)
    combo.blockSignals(was)


def value_of(combo: qt.QComboBox) -> str:
    """The value of the entry that is chosen; empty if there is none."""
    return combo.itemData(combo.currentIndex) or ""


def select(combo: qt.QComboBox, value: str) -> None:
    """Choose the entry of a value; the first one if there is no such entry."""
    index = combo.findData(value)
    combo.setCurrentIndex(max(index, 0))
    combo.toolTip = combo.itemData(combo.currentIndex, qt.Qt.ToolTipRole) or combo.toolTip


def device_choices() -> List[Choice]:
    """Where the network can run."""
    return [
        Choice("auto", _("Automatic")),
        Choice("cuda", _("NVIDIA GPU (CUDA)")),
        Choice("mps", _("Apple GPU (MPS)")),
        Choice("cpu", _("CPU")),
    ]


def precision_choices() -> List[Choice]:
    """Arithmetic."""
    return [
        Choice("auto", _("Automatic"), _("bfloat16 where it is faster than float32.")),
        Choice("float32", _("float32")),
        Choice("bfloat16", _("bfloat16"), _("Half the memory; about three digits.")),
    ]


def prealign_choices() -> List[Choice]:
    """Linear alignments before the network."""
    return [
        Choice("affine", _("Affine"), _("Translation, rotation, scaling and shear.")),
        Choice("rigid", _("Rigid"), _("Translation and rotation: size and shape stay.")),
        Choice("centre", _("Centres only"), _("Translation of one centre onto the other.")),
        Choice("none", _("None"), _("The volumes are aligned already, or by the initial transform.")),
    ]


def similarity_choices() -> List[Choice]:
    """What the refinement maximises."""
    return [
        Choice("lncc", _("Local correlation"), _("For volumes of the same kind, also with a shading.")),
        Choice("mind", _("MIND"), _("For different contrasts, such as MR and CT: compares local structure.")),
        Choice("mi", _("Mutual information"), _("For different contrasts, where intensities relate globally.")),
        Choice("mse", _("Squared difference"), _("For volumes with the same intensities, such as two CT.")),
    ]


def transform_choices() -> List[Choice]:
    """What is kept of the transform."""
    return [
        Choice("full", _("Affine and displacement"), _("One node, exact to the last digit.")),
        Choice("grid", _("One displacement grid"), _("The total displacement, for programs that know no chains.")),
        Choice("none", _("None")),
    ]


def comparison_choices() -> List[Choice]:
    """How fixed and warped are compared."""
    return [
        Choice("blend", _("Blend"), _("Warped over fixed; the amount is its opacity.")),
        Choice("swipe", _("Swipe"), _("Fixed on one side, warped on the other; the amount is where they meet.")),
        Choice("checkerboard", _("Checkerboard"), _("Both in turn; the amount is how many tiles.")),
        Choice("none", _("None"), _("The fixed volume alone.")),
    ]


def deformation_choices() -> List[Choice]:
    """How the deformation is drawn."""
    motion = _("The motion from the moving to the fixed volume, after the linear alignment.")
    drawn = {
        "grid": (_("Grid"), _("A regular grid on the aligned moving volume, taken along.")),
        "arrows": (_("Arrows"), _("From where a place was to where it went.")),
        "contours": (_("Contours"), _("Lines of equal displacement, in mm.")),
    }
    return [
        Choice("none", _("None"), _("No drawing.")),
        *(Choice(style, text, f"{motion} {tip}") for style, (text, tip) in drawn.items()),
        Choice("force", _("Driving force as arrows"), _("What pulled the moving volume, before it was smoothed.")),
    ]


def preset_choices(presets: Iterable[str]) -> List[Choice]:
    """The presets, and settings that are none of them."""
    return [Choice(name, session.preset_text(name), session.preset_tip(name)) for name in [*presets, session.CUSTOM]]


def model_choices(models: Iterable[session.Model]) -> List[Choice]:
    """The models, with choosing by itself first."""
    named = [Choice(model.name, session.model_label(model.name), model.description) for model in models]
    others = [Choice(name, session.model_label(name)) for name in (session.NONE, session.FILE)]
    return [Choice(session.AUTO, session.model_label(session.AUTO)), *named, *others]
