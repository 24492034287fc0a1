"""What can be chosen for each setting, in words; which values there are is the engine's to say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .translation import translator

_ = translator(__name__)


class Choice(NamedTuple):
    """One entry of a list to choose from.

    Attributes
    ----------
    value : str
        What is kept, and never changes.
    text : str
        What the list shows.
    tip : str
        What it means, for a tooltip.
    phrase : str
        What it is called within a sentence; as the text, if empty.
    """

    value: str
    text: str
    tip: str = ""
    phrase: str = ""


def phrase_of(choices: Iterable[Choice], value: str) -> str:
    """What a value is called within a sentence; the value itself if the list does not have it."""
    found = [choice.phrase or choice.text for choice in choices if choice.value == value]
    return found[0] if found else value


def device_choices() -> list[Choice]:
    """Where the network can run."""
    return [
        Choice("auto", _("Automatic")),
        Choice("cuda", _("NVIDIA GPU (CUDA)")),
        Choice("mps", _("Apple GPU (MPS)")),
        Choice("cpu", _("CPU")),
    ]


def precision_choices() -> list[Choice]:
    """Arithmetic of the network."""
    return [
        Choice("auto", _("Automatic"), _("bfloat16 where it is faster than float32.")),
        Choice("float32", _("float32")),
        Choice("bfloat16", _("bfloat16"), _("Half the memory; about three digits.")),
    ]


def prealign_choices() -> list[Choice]:
    """Linear alignments before the network."""
    return [
        Choice("affine", _("Affine"), _("Translation, rotation, scaling and shear."), _("affine alignment")),
        Choice("rigid", _("Rigid"), _("Translation and rotation: size and shape stay."), _("rigid alignment")),
        Choice("centre", _("Centres only"), _("Translation of one centre onto the other."), _("alignment of centres")),
        Choice(
            "none",
            _("None"),
            _("The volumes are aligned already, or by the initial transform."),
            _("no linear alignment"),
        ),
    ]


def similarity_choices() -> list[Choice]:
    """What the refinement maximises."""
    return [
        Choice(
            "lncc",
            _("Local cross-correlation"),
            _("For volumes of the same kind, also with a shading."),
            _("local cross-correlation"),
        ),
        Choice(
            "mind",
            _("MIND self-similarity"),
            _("For different contrasts, such as MR and CT: compares local structure."),
        ),
        Choice(
            "mi",
            _("Mutual information"),
            _("For different contrasts, where intensities relate globally."),
            _("mutual information"),
        ),
        Choice(
            "mse",
            _("Squared difference"),
            _("For volumes with the same intensities, such as two CT."),
            _("squared difference"),
        ),
    ]


def transform_choices() -> list[Choice]:
    """What is kept of the transform."""
    return [
        Choice("full", _("Affine and displacement"), _("One node, exact to the last digit.")),
        Choice("grid", _("One displacement grid"), _("The total displacement, for programs that know no chains.")),
        Choice("none", _("None")),
    ]


def comparison_choices() -> list[Choice]:
    """How fixed and warped are compared in one view."""
    return [
        Choice("blend", _("Blend"), _("Warped over fixed; the amount is its opacity.")),
        Choice("swipe", _("Swipe"), _("Fixed on one side, warped on the other; the amount is where they meet.")),
        Choice("checkerboard", _("Checkerboard"), _("Both in turn; the amount is how many tiles.")),
    ]


def deformation_choices() -> list[Choice]:
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
    ]
