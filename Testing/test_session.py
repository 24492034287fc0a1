"""What the panel and the viewer decide, without either of them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Optional

import pytest
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.models.files import list_models
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.jobs import messages
from DeepRegAttentionLib.terms import settings as session
from DeepRegAttentionLib.terms.settings import Outputs, Selection, Settings
from helpers.places import MODULE
from hypothesis import given
from hypothesis import strategies as st

RESOURCES = MODULE / "Resources"
PAIR = Selection(fixed="a", moving="b")


def models() -> list[session.Model]:
    return session.read_models(RESOURCES / "Models" / "models.json")


def presets() -> dict[str, dict]:
    return session.read_presets(RESOURCES / "Presets")


# Settings


def test_the_settings_as_they_are_mean_the_options_as_they_are() -> None:
    options = RegistrationOptions.from_mapping(Settings().options())
    assert options == RegistrationOptions(refine=None)


def test_every_setting_becomes_an_option() -> None:
    settings = Settings("brain", "", "cpu", "float32", "rigid", 7, "mind", 0.5, 2.0, 1.5)
    options = RegistrationOptions.from_mapping(settings.options())
    given = [getattr(options, item.name) for item in fields(Settings) if item.name != "model_file"]
    assert given == ["brain", "cpu", "float32", "rigid", 7, "mind", 0.5, 2.0, 1.5]


@pytest.mark.parametrize("steps", [None, 0, 1, 10_000])
def test_the_steps_of_a_script_are_those_of_the_options(steps: Optional[int]) -> None:
    assert session.settings_from({"refine": steps}).options()["refine"] == steps


def test_steps_that_make_no_sense_are_left_to_the_options_to_refuse() -> None:
    with pytest.raises(OptionError, match="refine must lie between"):
        RegistrationOptions.from_mapping(session.settings_from({"refine": -2}).options())


def test_a_file_is_a_model() -> None:
    settings = session.settings_from({"model": "/x/mine.safetensors", "refine": None})
    assert (settings.model, settings.model_file) == (session.FILE, "/x/mine.safetensors")
    assert settings.options()["model"] == "/x/mine.safetensors"


def test_a_misspelt_setting_is_said() -> None:
    with pytest.raises(OptionError, match="did you mean “similarity”"):
        session.settings_from({"similarty": "mi"})


def test_the_inputs_of_a_job_are_those_of_a_selection() -> None:
    assert [item.name for item in fields(Selection)] == [item.name for item in fields(messages.Inputs)]


def test_a_job_is_understood_by_the_worker() -> None:
    job = session.make_job("1", messages.Inputs("f", "m"), "out", Settings(refine=5), Outputs(maps=False), watch=True)
    line = messages.encode(job.command())
    understood = messages.decode_command(line).job
    assert understood == job
    assert understood.watch
    assert RegistrationOptions.from_mapping(understood.options).maps is False


def test_without_refinement_there_is_nothing_to_watch() -> None:
    for settings, watched in (
        (Settings(refine=0), False),
        (Settings(refine=0, model="none"), True),
        (Settings(refine=session.MODELS_OWN), True),
    ):
        job = session.make_job("1", messages.Inputs("f", "m"), "out", settings, watch=True)
        assert job.watch == watched
        assert not replace(job, watch=False).watch


# What is missing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed": None}, "Choose a fixed volume"),
        ({"moving": None}, "Choose a moving volume"),
        ({"moving": "a"}, "two different volumes"),
        ({"fixed_landmarks": "p"}, "landmarks of the moving"),
        ({"moving_landmarks": "p"}, "landmarks of the fixed"),
        ({"fixed_landmarks": "p", "moving_landmarks": "p"}, "two different lists"),
        ({"fixed_labels": "l"}, "structures of the moving"),
    ],
)
def test_the_button_says_which_input_is_missing(change: dict, words: str) -> None:
    lacking = session.missing(replace(PAIR, **change))
    assert words in str(lacking)
    assert session.button_text(lacking, running=False) == lacking


@pytest.mark.parametrize(
    ("settings", "outputs", "words"),
    [
        (Settings(model="file"), Outputs(), "Choose a model file"),
        (Settings(model="file", model_file="weights.pt"), Outputs(), "Choose a model file"),
        (Settings(landmark_weight=1.0), Outputs(), "Choose landmarks"),
        (Settings(), Outputs(False, "none", True, False, False, False), "at least one output"),
    ],
)
def test_the_button_says_which_setting_is_missing(settings: Settings, outputs: Outputs, words: str) -> None:
    assert words in str(session.missing(PAIR, settings, outputs))


def test_nothing_is_missing() -> None:
    assert session.missing(PAIR) is None
    assert session.missing(replace(PAIR, labels="l")) is None
    assert session.button_text(None, running=False) == "Register"
    assert session.button_text("anything", running=True) == "Cancel"
    assert session.button_text(None, running=True, cancelling=True) == "Cancelling …"


@given(st.builds(Selection, **{item.name: st.sampled_from([None, "a", "b"]) for item in fields(Selection)}))
def test_what_is_not_missing_can_be_registered(selection: Selection) -> None:
    if session.missing(selection) is None:
        assert selection.fixed
        assert selection.moving
        assert selection.fixed != selection.moving
        assert bool(selection.fixed_landmarks) == bool(selection.moving_landmarks)
        assert selection.labels or not selection.fixed_labels


def test_the_transform_alone_is_enough() -> None:
    alone = Outputs(warped=False, transform="full", inverse=False, maps=False, labels=False, measures=False)
    assert session.missing(PAIR, outputs=alone) is None


# What has an effect


def test_without_refinement_its_settings_have_no_effect() -> None:
    on = session.enabled(Settings(refine=0))
    assert not any(on[name] for name in ("similarity", "regularization", "regularization_map", "landmark_weight"))
    assert all(session.enabled(Settings(refine=0, model="none"))[name] for name in ("similarity", "regularization"))
    assert session.enabled(Settings(refine=1))["similarity"]
    assert session.enabled(Settings(refine=session.MODELS_OWN))["similarity"], "the model may recommend some"


def test_landmarks_pull_only_in_pairs() -> None:
    both = replace(PAIR, fixed_landmarks="p", moving_landmarks="q")
    assert session.enabled(Settings(), both)["landmark_weight"]
    assert not session.enabled(Settings(), replace(both, moving_landmarks=None))["landmark_weight"]


def test_what_will_be_ignored_is_said() -> None:
    selection = replace(PAIR, regularization_map="r", fixed_landmarks="p", moving_landmarks="q")
    assert len(session.without_effect(Settings(refine=0, landmark_weight=1.0), selection)) == 2
    for steps in (3, session.MODELS_OWN):
        assert session.without_effect(Settings(refine=steps, landmark_weight=1.0), selection) == []


# Presets


def test_the_shipped_presets_come_in_their_order() -> None:
    assert list(presets()) == list(session.PRESETS)


@pytest.mark.parametrize("name", session.PRESETS)
def test_a_preset_is_recognised_after_it_was_chosen(name: str) -> None:
    changed = replace(Settings(refine=77, precision="bfloat16"), **session.preset_values(presets()[name]))
    assert session.preset_of(changed, presets()) == name
    assert session.preset_of(replace(changed, refine=77), presets()) == session.CUSTOM


def test_a_preset_leaves_nothing_of_another_behind() -> None:
    accurate = replace(Settings(), **session.preset_values(presets()["accurate"]))
    fast = replace(accurate, **session.preset_values(presets()["fast"]))
    assert (fast.refine, fast.precision) == (0, "auto")
    assert replace(fast, **session.preset_values(presets()["balanced"])) == Settings()


def test_the_settings_at_first_are_a_preset() -> None:
    assert session.preset_of(Settings(), presets()) == "balanced"


def test_a_tuned_preset_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"train": {"lr": 1}, "register": {"refine": 12}}))
    assert session.read_presets(tmp_path) == {"mine": {"refine": 12}}


# Models


def test_the_models_are_those_of_the_engine() -> None:
    assert [model.name for model in models()] == [model.info.name for model in list_models()]


def test_a_model_says_what_it_is_trained_on_and_its_licence() -> None:
    for model in models():
        text = session.model_text(model.name, models())
        assert model.description in text
        assert model.training_data in text
        assert model.licence in text


@pytest.mark.parametrize("name", [session.AUTO, session.NONE, session.FILE])
def test_every_other_choice_is_explained(name: str) -> None:
    assert len(session.model_text(name, [])) > 20
    assert session.model_label(name) != name


def test_the_measured_accuracy_is_shown() -> None:
    model = session.Model("m", accuracy={"data": "LPBA40", "network": {"dice": 0.7158}, "with_steps": {"dice": 0.7251}})
    assert "Dice 0.72 network, 0.73 with steps (LPBA40)" in session.model_text("m", [model])


# Device

CPU = {"name": "some CPU", "free_gib": 5.0, "total_gib": 16.0}


def test_the_memory_is_shown_and_what_is_needed() -> None:
    text = session.device_text({"cpu": {**CPU, "needed_gib": 2.14}}, "auto")
    assert "some CPU: 5.0 of 16.0 GiB free" in text
    assert "about 2.1 GiB" in text
    assert "coarser" not in text
    assert "coarser" in session.device_text({"cpu": {**CPU, "needed_gib": 6.0}}, "cpu")


def test_automatic_means_the_gpu_where_there_is_one() -> None:
    devices = {"cpu": CPU, "cuda": {"name": "H", "free_gib": 7.0, "total_gib": 8.0}}
    assert session.device_text(devices, "auto").startswith("H: 7.0 of 8.0")
    assert session.device_text(devices, "cpu").startswith("some CPU")
    assert "no MPS device" in session.device_text(devices, "mps")
    assert session.device_text(None, "auto") == ""
    assert session.device_text({"cpu": {"name": "x"}}, "auto") == "x"


# Progress


@pytest.mark.parametrize("stage", messages.STAGES)
def test_every_stage_has_a_name_for_people(stage: str) -> None:
    assert session.stage_text(stage) != stage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (1.2, "almost done"), (7.4, "about 7 s left"), (63.0, "about 65 s left"), (200.0, "about 3 min left")],
)
def test_the_time_left_is_as_exact_as_it_can_be(seconds: float, text: str) -> None:
    assert session.time_left(seconds) == text


def test_the_progress_is_one_line() -> None:
    assert session.progress_text("refine", 0.404, 12.0) == "Refining · 40 % · about 10 s left"
    assert session.progress_text("something new", 1.7) == "something new · 100 %"
    assert session.progress_text(None) == "Starting"


# Translation


def test_every_text_goes_through_the_translation() -> None:
    session.translate_with(str.upper)
    try:
        assert session.button_text(None, running=False) == "REGISTER"
        assert session.progress_text("refine") == "REFINING"
    finally:
        session.translate_with(str)
