"""The arguments and options of ``deepreg-attention register``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from typer.models import OptionInfo

from ..engine.options import RegistrationOptions
from ..terms.choices import (
    Choice,
    device_choices,
    phrase_of,
    prealign_choices,
    precision_choices,
    similarity_choices,
)
from ..terms.presets import SHIPPED

_DEFAULTS = RegistrationOptions()
_METHOD, _GUIDANCE, _MEASURES, _OUTPUT, _COMPUTER = "Method", "Guidance", "Measures", "Output", "Computer"


def _option(help: str, panel: str, *names: str, default: Optional[str] = None) -> OptionInfo:
    """An option without a value of its own, so that a preset can set it; the help shows its default."""
    shown = default if default is not None else False
    option: OptionInfo = typer.Option(*names, help=help, rich_help_panel=panel, show_default=shown)
    return option


def _choice(help: str, choices: list[Choice], panel: str, default: str) -> OptionInfo:
    known = ", ".join(f"{choice.value} ({phrase_of(choices, choice.value)})" for choice in choices)
    return _option(f"{help}: {known}.", panel, default=default)


Fixed = Annotated[
    Path, typer.Argument(metavar="FIXED", help="Image that stays: any format of SimpleITK, or a DICOM folder.")
]
Moving = Annotated[Path, typer.Argument(metavar="MOVING", help="Image that is brought onto the fixed one.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Result folder; an older result in it is replaced once the new one is complete.",
        rich_help_panel=_OUTPUT,
    ),
]
Preset = Annotated[
    Optional[str],
    _option(f"{', '.join(SHIPPED)}, or a .json file; options given here win over it.", _METHOD),
]
Model = Annotated[
    Optional[str],
    _option(
        "Name of a model (see “models”), a .safetensors file, auto, or none (refinement alone).",
        _METHOD,
        default=_DEFAULTS.model,
    ),
]
AcceptLicence = Annotated[
    Optional[list[str]],
    _option(
        "Name of a model with a restricted licence that may be chosen for the images, too (see “models”); "
        "repeatable. Naming it with --model accepts its licence as well.",
        _METHOD,
        "--accept-licence",
    ),
]
Prealign = Annotated[
    Optional[str],
    _choice("Linear alignment before the network", prealign_choices(), _METHOD, _DEFAULTS.prealign),
]
Refine = Annotated[
    Optional[int],
    _option(
        "Steps of optimisation for this pair after the network; 0 leaves the answer to the network alone.",
        _METHOD,
        default="the model's own number",
    ),
]
Similarity = Annotated[
    Optional[str],
    _choice("What the refinement maximises", similarity_choices(), _METHOD, _DEFAULTS.similarity),
]
Regularization = Annotated[
    Optional[float],
    _option("Weight of the smoothness in the refinement.", _METHOD, default="the model's own"),
]
RegularizationMap = Annotated[
    Optional[Path],
    _option("Image of local factors on the smoothness in the refinement: high holds tissue together.", _METHOD),
]
LandmarkWeight = Annotated[
    Optional[float],
    _option("Pull of the landmarks in the refinement, per squared voxel; 0 only measures them.", _METHOD, default="0"),
]
Spacing = Annotated[Optional[float], _option("Spacing of the working grid in mm.", _METHOD, default="the model's own")]
InitialTransform = Annotated[
    Optional[Path],
    _option("Transform from fixed to moving points to start from (.h5, .tfm, or a displacement field).", _GUIDANCE),
]
FixedMask = Annotated[Optional[Path], _option("Non-zero where the fixed image counts.", _GUIDANCE)]
MovingMask = Annotated[Optional[Path], _option("Non-zero where the moving image counts.", _GUIDANCE)]
FixedLandmarks = Annotated[
    Optional[Path],
    _option("Points of the fixed image (.mrk.json, .fcsv, or text: x y z in LPS mm).", _GUIDANCE),
]
MovingLandmarks = Annotated[
    Optional[Path],
    _option("Their counterparts in the moving image; the error in mm (TRE) is measured.", _GUIDANCE),
]
Labels = Annotated[Optional[Path], _option("Label map of the moving image; it is warped along.", _MEASURES)]
FixedLabels = Annotated[
    Optional[Path],
    _option("Label map of the fixed image, to measure overlap (Dice) and surface distance (HD95).", _MEASURES),
]
Maps = Annotated[
    Optional[bool],
    _option("Whether the maps that explain the result are made.", _OUTPUT, "--maps/--no-maps", default="maps"),
]
Levels = Annotated[
    Optional[bool],
    _option(
        "Whether, among them, is what each level of the network added to the driving force.",
        _OUTPUT,
        "--levels/--no-levels",
        default="no-levels",
    ),
]
Displacement = Annotated[
    bool,
    typer.Option(
        "--displacement",
        help="Also write the total displacement at every voxel; transform.h5 holds the same, on a coarser grid.",
        rich_help_panel=_OUTPUT,
    ),
]
Report = Annotated[bool, typer.Option("--report", help="Also write report.html.", rich_help_panel=_OUTPUT)]
Require = Annotated[
    Optional[str],
    _option("Exit with status 8 if the verdict is worse: pass or review.", _OUTPUT, default="any verdict will do"),
]
Format = Annotated[str, typer.Option(help="Of the images: nii.gz or nrrd.", rich_help_panel=_OUTPUT)]
Device = Annotated[Optional[str], _choice("Where the network runs", device_choices(), _COMPUTER, _DEFAULTS.device)]
Precision = Annotated[
    Optional[str],
    _choice("Arithmetic of the network", precision_choices(), _COMPUTER, _DEFAULTS.precision),
]
Threads = Annotated[Optional[int], _option("CPU threads.", _COMPUTER, default="all")]
