"""One registration from its files to its result: the path that the command line and the worker share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import SimpleITK as sitk

from .engine.clock import Progress, Report
from .engine.errors import DimensionError, OptionError, UnreadableFileError
from .engine.images import check_image, read_image
from .engine.landmarks import Landmarks, read_landmarks, require_pairs
from .engine.metrics import require_labels
from .engine.options import RegistrationOptions
from .engine.result import EXTENSIONS, RegistrationResult
from .engine.result_folder import read_metrics
from .terms.inputs import CALLED, INPUTS, NEEDS
from .terms.verdict import verdict_of

if TYPE_CHECKING:
    from .engine.corrections import Correction
    from .engine.guidance import Guidance

PathLike = Union[str, Path]

TRANSFORM_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt", ".mat", ".xfm")
"""Files with these endings hold transforms; any other is taken for a displacement field."""


@dataclass(frozen=True)
class Case:
    """Everything that was read for one registration: a field for each input.

    ``files`` says where each came from, as absolute paths, so that a result can be shown with its images later.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: Optional[sitk.Image] = None
    moving_mask: Optional[sitk.Image] = None
    initial_transform: Optional[sitk.Transform] = None
    regularization_map: Optional[sitk.Image] = None
    fixed_landmarks: Optional[Landmarks] = None
    moving_landmarks: Optional[Landmarks] = None
    labels: Optional[sitk.Image] = None
    fixed_labels: Optional[sitk.Image] = None
    files: Mapping[str, str] = field(default_factory=dict)


def in_words(name: str) -> str:
    """An input, or an option, as it stands in a sentence."""
    return f"the {CALLED.get(name, name.replace('_', ' '))}"


def read_case(
    paths: Mapping[str, Optional[PathLike]],
    options: Optional[RegistrationOptions] = None,
    spoken: Callable[[str], str] = in_words,
    progress: Optional[Progress] = None,
) -> Case:
    """Read all files and check what needs no computation.

    Parameters
    ----------
    paths : mapping of str to path
        Files by the names of the inputs; None and other keys count for nothing.
    options : RegistrationOptions, optional
        What will be done with them, to see whether anything is missing for it.
    spoken : callable, optional
        How the user knows a field, for the sentences of errors.
    progress : callable, optional
        Called with ``"read"`` and the fraction done; may raise to stop.

    Raises
    ------
    OptionError
        Something is missing without which something else has no use.
    ImageError
        One of its kinds: a file cannot be read, or does not fit the others.
    """
    given = {name: Path(path) for name in INPUTS if (path := paths.get(name)) is not None}
    _require_together(given, options or RegistrationOptions(), spoken)
    read: dict[str, Any] = {}
    for name, path in given.items():
        if progress is not None:
            progress("read", len(read) / len(given))
        read[name] = _READERS.get(name, read_image)(path)
    case = Case(**read, files={name: str(path.absolute()) for name, path in given.items()})
    for labels, image in ((case.labels, case.moving), (case.fixed_labels, case.fixed)):
        if labels is not None:
            require_labels(labels, image)
    if case.fixed_landmarks is not None and case.moving_landmarks is not None:
        require_pairs(case.fixed_landmarks, case.moving_landmarks)
    return case


def _require_together(given: Mapping[str, Path], options: RegistrationOptions, spoken: Callable[[str], str]) -> None:
    needs = dict(NEEDS)
    present = set(given)
    if options.landmark_weight:
        needs["landmark_weight"] = "fixed_landmarks"
        present.add("landmark_weight")
    for name in present & set(needs):
        if needs[name] not in present:
            sentence = f"{spoken(name)} cannot be used without {spoken(needs[name])}."
            raise OptionError(sentence[0].upper() + sentence[1:])


def read_volume(path: Path, role: str) -> sitk.Image:
    """Read a volume fit for registration; `role` names it in the error."""
    image = read_image(path)
    check_image(image, role)
    return image


def read_transform(path: Path) -> sitk.Transform:
    """Read a 3D transform from fixed to moving points, or an image of displacements (LPS mm).

    Raises
    ------
    UnreadableFileError
        Missing, damaged or of an unknown format.
    DimensionError
        Not a transform of 3D points.
    """
    if not path.is_file():
        raise UnreadableFileError(f"The transform {path} does not exist.")
    if not path.name.lower().endswith(TRANSFORM_ENDINGS):
        return _displacements(read_image(path), path)
    try:
        transform: sitk.Transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise UnreadableFileError(
            f"The transform {path} cannot be read: it is damaged or of an unknown format."
        ) from error
    if transform.GetDimension() != 3:
        raise DimensionError(f"The transform {path} moves {transform.GetDimension()}D points; 3D is needed.")
    return transform


def _displacements(field: sitk.Image, path: Path) -> sitk.Transform:
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise DimensionError(f"{path} is no displacement field: a 3D image of vectors (x, y, z in mm) is needed.")
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "fixed": lambda path: read_volume(path, "fixed image"),
    "moving": lambda path: read_volume(path, "moving image"),
    "initial_transform": read_transform,
    "fixed_landmarks": read_landmarks,
    "moving_landmarks": read_landmarks,
}


def register_case(
    case: Case,
    options: RegistrationOptions,
    progress: Optional[Progress] = None,
    watch: Optional[Callable[[sitk.Image], None]] = None,
) -> RegistrationResult:
    """Register, and measure by the label maps and landmarks that were given.

    Parameters
    ----------
    case : Case
        What :func:`read_case` returned.
    options : RegistrationOptions
        How.
    progress, watch : callable, optional
        As for ``register()``; `progress` also with the stage ``"measure"``.

    Raises
    ------
    RegistrationError
        As ``register()`` does.
    """
    # Here and not above: files are read, and refused, before torch is loaded.
    from .engine.hardware import memory_errors
    from .engine.registration import register

    with memory_errors():
        result = register(case.fixed, case.moving, options, _guidance(case), progress, watch)
        _measure(result, case, progress)
    if case.files:
        result.metrics["inputs"] = dict(case.files)
    say_verdict(result)
    return result


class CaseCorrector:
    """Corrects the result of a case again and again: what that takes of the images is made once.

    Parameters
    ----------
    case : Case
        What it was made of.
    result : RegistrationResult
        Corrected before or not.

    Raises
    ------
    CorrectionError
        The result is of other images, or cannot be corrected.
    """

    def __init__(self, case: Case, result: RegistrationResult) -> None:
        from .engine.corrections import Corrector

        self._case, self._corrector = case, Corrector(result, case.fixed, case.moving, _guidance(case))

    def correct(self, corrections: Sequence[Correction], progress: Optional[Progress] = None) -> RegistrationResult:
        """The result with all of these corrections, measured by the label maps and landmarks of the case.

        Parameters
        ----------
        corrections : sequence of Correction
            All that there are; with none it is the result as it was found.
        progress : callable, optional
            Called with ``"correct"`` and the fraction done; may raise to stop.

        Raises
        ------
        CorrectionError
            As ``correct()`` does.
        """
        from .engine.hardware import memory_errors

        with memory_errors():
            result = self._corrector.correct(corrections, _stage(progress, "correct"))
            if result.uncorrected is None:
                return result
            before = result.uncorrected.metrics.get("labels", {}).get("before")
            _measure(result, self._case, progress, before)
        say_verdict(result)
        return result


def read_result(folder: PathLike, case: Case) -> RegistrationResult:
    """The result of a case from its folder.

    Where the folder holds no more than the transform and the metrics, all else is made anew and written there.

    Raises
    ------
    UnreadableFileError
        The folder holds no result.
    CorrectionError
        The result is of other images.
    """
    folder = Path(folder)
    metrics = read_metrics(folder)
    if any((folder / f"warped{ending}").is_file() for ending in EXTENSIONS):
        return RegistrationResult.read(folder)
    from .engine.corrections import made_anew

    result = made_anew(read_transform(folder / "transform.h5"), metrics, case.fixed, case.moving, _guidance(case))
    say_verdict(result)
    result.save(folder, ".nrrd", compress=False)
    return result


def _guidance(case: Case) -> Guidance:
    from .engine.guidance import Guidance

    return Guidance(**{item.name: getattr(case, item.name) for item in fields(Guidance)})


def _stage(progress: Optional[Progress], stage: str) -> Report:
    return lambda fraction: None if progress is None else progress(stage, fraction)


def _measure(
    result: RegistrationResult,
    case: Case,
    progress: Optional[Progress],
    before: Optional[Mapping[str, Any]] = None,
) -> None:
    """By the label maps and landmarks that were given; `before` is the overlap before the registration, if known."""
    from .engine.evaluation import evaluate_labels, evaluate_landmarks

    report = _stage(progress, "measure")
    if case.labels is not None:
        evaluate_labels(result, case.moving, case.labels, case.fixed_labels, report, before)
    if case.fixed_landmarks is not None and case.moving_landmarks is not None:
        report(1.0)
        evaluate_landmarks(result, case.fixed_landmarks, case.moving_landmarks)


def say_verdict(result: RegistrationResult) -> None:
    """Have the metrics say the verdict in words, too, for who reads the file without us."""
    found = verdict_of(result.metrics)
    if found is not None:
        result.metrics["verdict"]["sentence"] = found.sentence
