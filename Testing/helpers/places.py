"""Where the repository, its module and the real images lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = REPOSITORY / "DeepRegAttention"
DATA_VARIABLE = "DEEPREG_ATTENTION_DATA"


def real_data(name: str) -> Path:
    """The folder of a published data set; a test that asks for one that is not here is skipped.

    The sets lie in the folder that the environment variable names, without it in ``../shared/data`` beside the
    repository: ``acdc``, ``dirlab_landmarks``, ``hippocampus`` and ``lpba40``, as CONTRIBUTING.md describes them.
    """
    root = Path(os.environ.get(DATA_VARIABLE) or REPOSITORY.parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"the real images {name} are not in {root}; {DATA_VARIABLE} says in which folder they lie")
    return root / name
