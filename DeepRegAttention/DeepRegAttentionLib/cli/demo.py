"""``deepreg-attention demo``: the shipped pair of brains, an atlas carried over, and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import Model, Refine
from .console import ReadableErrors, results, say

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..engine.result import RegistrationResult

# As multi-level Otsu numbers them on a T1-weighted image; 1 is cerebrospinal fluid.
TISSUES = {"grey": 2, "white": 3}
_FULL_SCALE = 255

Output = Annotated[Path, typer.Option("--output", "-o", help="Result folder.")]


@ReadableErrors()
def demo(output: Output = Path("demo"), model: Model = None, refine: Refine = None) -> None:
    """Register the Colin27 brain to the ICBM152 average brain and carry the AAL atlas over to it."""
    from ..case import read_case
    from ..engine.resources import resource_folder
    from ..engine.result import require_writable
    from .register import run, save, show
    from .settings import read_options

    samples = resource_folder("Samples")
    options = read_options("balanced", {"model": model, "refine": refine})
    require_writable(output)
    names = {"fixed": "icbm152-t1", "moving": "colin27-t1", "labels": "colin27-aal"}
    case = read_case({role: samples / f"{name}.nii.gz" for role, name in names.items()})
    result = run(case, options)
    fixed_tissues = tissue_map(*(read_volume_of(samples, f"icbm152-{tissue}") for tissue in TISSUES))
    result.metrics["tissue_dice"] = tissue_overlap(result, case.moving, fixed_tissues)
    label_names = read_label_names(samples / "colin27-aal.txt")
    save(result, case, output, report=True, label_names=label_names)
    show(result, output)
    say("report", str((output / "report.html").resolve()), "bold", results)
    say("browser", f"{command_name()} view {output}", "bold", results)


def command_name() -> str:
    """How this program was called; the name alone if it was not called as a program."""
    called = Path(sys.argv[0])
    return str(called) if called.stem == "deepreg-attention" else "deepreg-attention"


def read_volume_of(folder: Path, name: str) -> sitk.Image:
    """One of the shipped images."""
    from ..case import read_volume

    return read_volume(folder / f"{name}.nii.gz", name)


def tissue_map(grey: sitk.Image, white: sitk.Image) -> sitk.Image:
    """Labels of ``TISSUES`` where that tissue's share (0 to 255) is the larger one and more than half."""
    import SimpleITK as sitk

    half = _FULL_SCALE / 2
    is_grey = sitk.And(grey > half, grey >= white)
    is_white = sitk.And(white > half, white > grey)
    tissues: sitk.Image = is_grey * TISSUES["grey"] + is_white * TISSUES["white"]
    return tissues


def tissue_overlap(
    result: RegistrationResult, moving: sitk.Image, fixed_tissues: sitk.Image
) -> dict[str, dict[str, float]]:
    """Dice of grey and white matter before, after the linear and after the whole alignment.

    The tissues of the moving image are those of :func:`~..engine.metrics.tissue_classes`; both images lie in
    MNI space, so "before" compares them as they are.
    """
    import SimpleITK as sitk

    from ..engine.metrics import dice, tissue_classes
    from ..engine.resampling import warp_image

    classes = tissue_classes(moving)
    linear = sitk.CompositeTransform(result.transform).GetNthTransform(0)
    overlap = {}
    moments = {"before": sitk.Transform(3, sitk.sitkIdentity), "linear": linear, "after": result.transform}
    for moment, transform in moments.items():
        warped = warp_image(classes, fixed_tissues, transform, nearest=True)
        found = dice(fixed_tissues, warped, TISSUES.values())
        overlap[moment] = {tissue: found[label] for tissue, label in TISSUES.items()}
    return overlap


def read_label_names(path: Path) -> dict[int, str]:
    """Names by label value, from lines that begin with both."""
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {int(row[0]): row[1] for row in rows}
