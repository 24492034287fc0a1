"""Corrections of a result in a scene: where they are, what the worker needs for them, which nodes they change."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import slicer

from ..engine.errors import CorrectionError
from ..engine.result import CORRECTED_MAPS, UNCORRECTED
from ..engine.result_folder import METRICS_FILE
from ..terms.maps import MAPS
from .deformation import renew_deformation
from .export import write_deformation
from .nodes import LPS_TO_RAS, finish, last_change, renew_volume
from .results import (
    Result,
    find_image,
    keep_uncorrected,
    metrics_before,
    renew_map,
    renew_metrics,
)
from .surfaces import remove_surfaces
from .transforms import deformation_part, followed_by, grid_part, read_transform


@dataclass(frozen=True)
class PlacedCorrection:
    """A correction of a result, RAS mm.

    Attributes
    ----------
    fixed, moving : ndarray
        A point of the fixed volume, and where the same anatomy lies in the moving one.
    before_mm, after_mm : float
        Its own error before any correction, and now.
    reach_mm : float
        How far it is felt.
    """

    fixed: np.ndarray
    moving: np.ndarray
    before_mm: float
    after_mm: float
    reach_mm: float

    @property
    def pair(self) -> tuple[list[float], list[float]]:
        """Both points in LPS mm, as the worker takes them."""
        return to_lps(self.fixed), to_lps(self.moving)


def to_lps(point: Union[Sequence[float], np.ndarray]) -> list[float]:
    """A point, RAS mm, as the worker takes it."""
    lps: list[float] = (LPS_TO_RAS[:3, :3] @ np.asarray(point, dtype=float)).tolist()
    return lps


def corrections_of(result: Result) -> list[PlacedCorrection]:
    """All corrections of a result, in the order in which they were made."""
    flip = LPS_TO_RAS[:3, :3]
    return [
        PlacedCorrection(
            flip @ told["fixed_lps_mm"],
            flip @ told["moving_lps_mm"],
            told["error_before_mm"],
            told["error_after_mm"],
            told["reach_mm"],
        )
        for told in result.metrics.get("corrections") or ()
    ]


def moving_point(result: Result, point: Union[Sequence[float], np.ndarray]) -> np.ndarray:
    """Where in the moving volume lies what the warped one shows at a point; both RAS mm.

    Raises
    ------
    CorrectionError
        The result has no transform any more.
    """
    if result.transform is None:
        raise CorrectionError("The transform of this result is gone, so it cannot be corrected.")
    return np.array(result.transform.GetTransformFromParent().TransformPoint(list(point)))


def result_state(result: Result) -> tuple[Any, ...]:
    """Differs from an earlier one if :func:`write_result` may write something else of a result than it did then."""
    node = _uncorrected(result)
    transform = () if node is None else (node.GetID(), last_change(node.GetTransformFromParent()))
    return (result.node.GetID(), *transform)


def _uncorrected(result: Result) -> Optional[slicer.vtkMRMLTransformNode]:
    """The transform as it was found."""
    return result.extra(UNCORRECTED) or result.transform


def write_result(result: Result, folder: Union[str, Path]) -> None:
    """Write what the worker needs of a result in order to correct it: its transform and metrics before any correction.

    Parameters
    ----------
    result : Result
        Whose own folder is gone, as in a scene that was loaded.
    folder : path
        Exists, and is empty.

    Raises
    ------
    CorrectionError
        The result has no transform any more.
    OutputError
        The folder cannot be written.
    """
    node = _uncorrected(result)
    grid = deformation_part(node, result.linear) if node is not None else None
    if grid is None:
        raise CorrectionError("The transform of this result is gone, so it cannot be corrected.")
    write_deformation(result.linear, grid, Path(folder) / "transform.h5")
    (Path(folder) / METRICS_FILE).write_text(json.dumps(metrics_before(result)), encoding="utf-8")


def refresh_result(result: Result, folder: Union[str, Path], label_names: Optional[Mapping[int, str]] = None) -> None:
    """:func:`refresh_steps` in one go."""
    finish(refresh_steps(result, folder, label_names))


def refresh_steps(
    result: Result, folder: Union[str, Path], label_names: Optional[Mapping[int, str]] = None
) -> Generator[str, None, None]:
    """Have the nodes of a result show what its folder holds since it was corrected.

    The nodes stay, with all that shows them; a node that the user deleted is not made again. Surfaces of the warped
    structures are removed, as they take a while to make.

    Parameters
    ----------
    result : Result
        As it was loaded from this folder.
    folder : path
        As the worker left it.
    label_names : mapping of int to str, optional
        Names of the structures, for the tables.

    Raises
    ------
    UnreadableFileError
        A file is missing or damaged.
    """
    folder = Path(folder)
    yield "transform"
    keep_uncorrected(result, folder)
    _renew_transforms(result, folder)
    renew_deformation(result)
    for name, node in (("warped", result.warped), ("warped_labels", result.labels)):
        path = find_image(name, folder)
        if node is not None and path is not None:
            yield "warped image" if name == "warped" else "structures"
            renew_volume(node, path)
    remove_surfaces(result)
    for name in CORRECTED_MAPS:
        # Whoever has no maps wants none.
        if name in result.maps or (name == "correction" and result.maps):
            yield MAPS[name].name
            renew_map(result, name, folder)
    yield "measures"
    renew_metrics(result, folder, label_names or {})


def _renew_transforms(result: Result, folder: Path) -> None:
    if result.transform is not None:
        whole = not result.transform.IsA("vtkMRMLGridTransformNode")
        read_transform(result.transform, folder / "transform.h5")
        grid: Optional[object] = grid_part(result.transform)
        if not whole and grid is not None:
            result.transform.SetAndObserveTransformFromParent(followed_by(grid, result.linear))
    if result.inverse is not None:
        read_transform(result.inverse, folder / "inverse_transform.h5")
