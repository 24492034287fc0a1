"""The real images: where they are looked for, and that a test without them is skipped with the way to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.places import DATA_VARIABLE, REPOSITORY, real_data


def test_the_variable_says_where_the_real_images_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lpba40").mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert real_data("lpba40") == tmp_path / "lpba40"


def test_a_test_without_its_images_is_skipped_with_the_name_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=f"lpba40 are not in {tmp_path}; {DATA_VARIABLE} says"):
        real_data("lpba40")


def test_without_the_variable_they_lie_beside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(Path, "is_dir", lambda path: True)
    assert real_data("acdc") == REPOSITORY.parent / "shared" / "data" / "acdc"
