"""What can go wrong, each with a code for programs, an exit status and one sentence for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegistrationError(Exception):
    """The base of every error that the engine raises on purpose; its text is one readable sentence."""

    code = "error"
    exit_code = 1


class OptionError(RegistrationError):
    """An option is unknown, out of range or contradicts another one."""

    code = "option"
    exit_code = 2


class ImageError(RegistrationError):
    """An image, mask, label map or landmark list cannot be used."""

    code = "image"
    exit_code = 3


class UnreadableFileError(ImageError):
    """A file is missing, truncated or not of a known format."""

    code = "unreadable"


class EmptyImageError(ImageError):
    """An image has no voxels, or all of its voxels have the same value."""

    code = "empty"


class NonFiniteError(ImageError):
    """An image holds NaN or infinite voxels."""

    code = "not-finite"


class DimensionError(ImageError):
    """An image is not a three-dimensional scalar volume."""

    code = "dimension"


class SpacingError(ImageError):
    """A spacing is absurd, or differs beyond reason between the two images."""

    code = "spacing"


class MaskError(ImageError):
    """A mask is empty or does not meet its image."""

    code = "mask"


class LabelError(ImageError):
    """A label map does not belong to its image."""

    code = "labels"


class LandmarkError(ImageError):
    """Landmarks cannot be read or do not pair up."""

    code = "landmarks"


class CorrectionError(ImageError):
    """A correction does not lie in the images, contradicts another one, or cannot be made without folds."""

    code = "correction"


class OverlapError(RegistrationError):
    """The two images have no voxel in common."""

    code = "no-overlap"
    exit_code = 4


class ModelError(RegistrationError):
    """A model file is missing, damaged or made for another network."""

    code = "model"
    exit_code = 5


class LicenceError(RegistrationError):
    """The model that suits the images has a restricted licence, and the user is to be asked for consent first.

    Attributes
    ----------
    model : str
        Name of the model.
    """

    code = "licence"
    exit_code = 5

    def __init__(self, model: str, sentence: str) -> None:
        super().__init__(sentence)
        self.model = model


class OutputError(RegistrationError):
    """A result cannot be written: no permission, no space."""

    code = "output"
    exit_code = 6


class MemoryLimitError(RegistrationError):
    """The registration does not fit into memory, on the GPU or off it."""

    code = "memory"
    exit_code = 7


class CancelledError(RegistrationError):
    """The caller asked to stop."""

    code = "cancelled"
    exit_code = 130


class RegistrationWarning(UserWarning):
    """Something was not as asked, and the registration went on; the text says how."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """``" (did you mean “…”?)"`` with the known word that is most like a mistyped one; empty if none is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean “{close[0]}”?)" if close else ""
