"""``deepreg-attention warp``: carry an image, a label map or points with a transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..engine.errors import OptionError
from .console import ReadableErrors, readable_warnings, results, say, silent_libraries

LANDMARK_ENDINGS = (".mrk.json", ".json", ".fcsv", ".txt", ".csv")

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT", help="Image, label map, or points (.mrk.json, .fcsv, .txt, .csv: x y z in LPS mm)."
    ),
]
TransformFile = Annotated[
    Path,
    typer.Option("--transform", "-t", help="From fixed to moving points: .h5, .tfm, or a displacement field."),
]
Reference = Annotated[
    Optional[Path], typer.Option("--reference", "-r", help="Image whose grid the output gets; not for points.")
]
Target = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
IsLabels = Annotated[bool, typer.Option("--labels", help="INPUT is a label map: nearest neighbour, 0 outside.")]


@ReadableErrors()
def warp(
    input: Input, transform: TransformFile, output: Target, reference: Reference = None, labels: IsLabels = False
) -> None:
    """Apply a transform to an image, a label map or points.

    A transform says for each point of the FIXED image where it lies in the MOVING image. With the transform.h5
    of a result, images and label maps therefore go from moving to fixed (onto the grid of --reference, the fixed
    image), and points go the other way, from fixed to moving. For the opposite directions give the
    inverse_transform.h5 of the same result.
    """
    with readable_warnings(), silent_libraries():
        if input.name.lower().endswith(LANDMARK_ENDINGS):
            _warp_points(input, transform, output)
        elif reference is None:
            raise OptionError("--reference is needed: the image whose grid the output gets.")
        else:
            _warp_image(input, transform, reference, output, labels)
    say("written", str(output.resolve()), "bold", results)


def _warp_points(input: Path, transform: Path, output: Path) -> None:
    from ..case import read_transform
    from ..engine.landmarks import read_landmarks, transform_landmarks, write_landmarks

    write_landmarks(output, transform_landmarks(read_landmarks(input), read_transform(transform)))


def _warp_image(input: Path, transform: Path, reference: Path, output: Path, labels: bool) -> None:
    from ..case import read_transform, read_volume
    from ..engine.images import read_image
    from ..engine.resampling import warp_image
    from .files import write_image

    target = read_image(reference)
    image = read_image(input) if labels else read_volume(input, "image")
    write_image(warp_image(image, target, read_transform(transform), nearest=labels), output)
