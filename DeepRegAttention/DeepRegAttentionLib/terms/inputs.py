"""What a registration is given: the one list of its inputs, what each is called, and what it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Optional


def _input(called: str, needs: Optional[str] = None) -> Any:
    """A field of :class:`Inputs`: what it is called in a sentence, and without which other input it is of no use."""
    return field(default=None, metadata={"called": called, "needs": needs})


@dataclass(frozen=True)
class Inputs:
    """The inputs of one registration: a path each, or the id of a node; None where nothing was chosen.

    The fields are called like the options of the command line, the parameters of scripts and the files of a job.
    """

    fixed: Optional[str] = _input("fixed image")
    moving: Optional[str] = _input("moving image")
    fixed_mask: Optional[str] = _input("mask of the fixed image")
    moving_mask: Optional[str] = _input("mask of the moving image")
    initial_transform: Optional[str] = _input("initial transform")
    regularization_map: Optional[str] = _input("regularization map")
    fixed_landmarks: Optional[str] = _input("landmarks of the fixed image", needs="moving_landmarks")
    moving_landmarks: Optional[str] = _input("landmarks of the moving image", needs="fixed_landmarks")
    labels: Optional[str] = _input("label map of the moving image")
    fixed_labels: Optional[str] = _input("label map of the fixed image", needs="labels")

    def to_dict(self) -> dict[str, str]:
        """Those that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_INPUTS = Inputs()

INPUTS: tuple[str, ...] = tuple(item.name for item in fields(Inputs))
"""The names of all inputs."""

REQUIRED = ("fixed", "moving")
"""Those without which there is no registration."""

CALLED: Mapping[str, str] = {item.name: item.metadata["called"] for item in fields(Inputs)}
"""What each is called, in English, as the errors of the engine are."""

NEEDS: Mapping[str, str] = {item.name: item.metadata["needs"] for item in fields(Inputs) if item.metadata["needs"]}
"""What can only be given together with another."""
