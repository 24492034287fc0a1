"""Presets: read by one function for every way in, recognised, and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.terms.presets import (
    CUSTOM,
    DECIDED,
    SHIPPED,
    preset_choices,
    preset_of,
    preset_settings,
    preset_values,
    read_preset,
    shipped_presets,
)
from DeepRegAttentionLib.terms.settings import Settings


def test_the_shipped_presets_are_those_of_the_folder_in_their_order() -> None:
    assert sorted(shipped_presets()) == sorted(path.stem for path in resource_folder("Presets").glob("*.json"))
    steps = [Settings(**preset_values(preset)).refine for preset in shipped_presets().values()]
    assert steps == [0, None, 150]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_is_valid_and_decides_what_all_decide(name: str) -> None:
    preset = read_preset(name)
    assert RegistrationOptions.from_mapping(preset).to_dict().items() >= preset.items()
    assert set(preset) <= set(DECIDED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_has_words(name: str) -> None:
    (choice,) = [choice for choice in preset_choices() if choice.value == name]
    assert choice.text.lower() == name
    assert choice.tip


@pytest.mark.parametrize("name", SHIPPED)
def test_a_preset_is_recognised_after_it_was_chosen(name: str) -> None:
    changed = replace(Settings(refine=77, precision="bfloat16"), **preset_values(shipped_presets()[name]))
    assert preset_of(changed, shipped_presets()) == name
    assert preset_of(replace(changed, refine=77), shipped_presets()) == CUSTOM


def test_a_preset_leaves_nothing_of_another_behind() -> None:
    accurate = replace(Settings(), **preset_values(shipped_presets()["accurate"]))
    fast = replace(accurate, **preset_values(shipped_presets()["fast"]))
    assert (fast.refine, fast.precision) == (0, "auto")
    assert replace(fast, **preset_values(shipped_presets()["balanced"])) == Settings()


def test_the_settings_at_first_are_a_preset() -> None:
    assert preset_of(Settings(), shipped_presets()) == "balanced"


def test_a_tuned_preset_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"train": {"lr": 1}, "register": {"refine": 12, "similarity": "mi"}}), encoding="utf-8")
    assert preset_values(read_preset(str(path))) == {"refine": 12, "precision": "auto", "similarity": "mi"}


def test_a_misspelt_preset_is_said() -> None:
    with pytest.raises(OptionError, match=r"no preset “acurate” \(did you mean “accurate”\?\); choose fast, balanced"):
        read_preset("acurate")
    with pytest.raises(OptionError, match="did you mean “accurate”"):
        preset_settings("acurate", {})
    with pytest.raises(OptionError, match=r"no preset “\.\./Presets/fast”"):
        read_preset("../Presets/fast")


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not valid JSON"), ("[]", "one object"), (None, "cannot be read")]
)
def test_a_damaged_preset_is_an_option_error(tmp_path: Path, content: Optional[str], words: str) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(OptionError, match=words):
        read_preset(str(path))


def test_a_script_changes_what_it_says_of_a_preset() -> None:
    settings = preset_settings("accurate", {"regularization": 0, "model": "mine.safetensors", "refine": None})
    assert (settings.refine, settings.precision, settings.regularization) == (None, "float32", 0)
    assert settings.options()["model"] == "mine.safetensors"
    with pytest.raises(OptionError, match="regularization must lie between"):
        preset_settings("fast", {"regularization": -0.1})
