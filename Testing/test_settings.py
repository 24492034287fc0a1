"""What a person decides, without panel or viewer: what is missing, what has an effect."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Optional

import pytest
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.jobs.messages import Job, decode_command, encode, make_job
from DeepRegAttentionLib.terms.inputs import Inputs
from DeepRegAttentionLib.terms.settings import FILE, Outputs, Settings, enabled, missing, settings_from, without_effect
from DeepRegAttentionLib.terms.wording import button_text
from hypothesis import given
from hypothesis import strategies as st

PAIR = Inputs(fixed="a", moving="b")

# Settings


def test_the_settings_as_they_are_mean_the_options_as_they_are() -> None:
    options = RegistrationOptions.from_mapping(Settings().options())
    assert options == RegistrationOptions(refine=None)


def test_every_setting_becomes_an_option() -> None:
    settings = Settings("brain", "", "cpu", "float32", "rigid", 7, "mind", 0.5, 2.0, 1.5, ("a",), ("b",))
    options = RegistrationOptions.from_mapping(settings.options())
    given = [getattr(options, item.name) for item in fields(Settings) if item.name != "model_file"]
    assert given == ["brain", "cpu", "float32", "rigid", 7, "mind", 0.5, 2.0, 1.5, ("a",), ("b",)]


@pytest.mark.parametrize("steps", [None, 0, 1, 10_000])
def test_the_steps_of_a_script_are_those_of_the_options(steps: Optional[int]) -> None:
    assert settings_from({"refine": steps}).options()["refine"] == steps


@pytest.mark.parametrize("weight", [None, 0, 0.5])
def test_zero_is_zero_and_none_is_the_models_own(weight: Optional[float]) -> None:
    settings = settings_from({"regularization": weight})
    assert RegistrationOptions.from_mapping(settings.options()).regularization == weight


def test_steps_that_make_no_sense_are_left_to_the_options_to_refuse() -> None:
    with pytest.raises(OptionError, match="refine must lie between"):
        RegistrationOptions.from_mapping(settings_from({"refine": -2}).options())


def test_a_file_is_a_model() -> None:
    settings = settings_from({"model": "/x/mine.safetensors", "refine": None})
    assert (settings.model, settings.model_file) == (FILE, "/x/mine.safetensors")
    assert settings.options()["model"] == "/x/mine.safetensors"


def test_a_misspelt_setting_is_said() -> None:
    with pytest.raises(OptionError, match="did you mean “similarity”"):
        settings_from({"similarty": "mi"})


# Jobs


def test_a_job_is_understood_by_the_worker() -> None:
    job = make_job("1", Inputs("f", "m"), "out", Settings(refine=5), Outputs(maps=False), watch=True)
    understood = decode_command(encode(job))
    assert isinstance(understood, Job)
    assert understood == job
    assert understood.watch
    assert RegistrationOptions.from_mapping(understood.options).maps is False


def test_without_refinement_there_is_nothing_to_watch() -> None:
    for settings, watched in (
        (Settings(refine=0), False),
        (Settings(refine=0, model="none"), True),
        (Settings(refine=None), True),
    ):
        job = make_job("1", Inputs("f", "m"), "out", settings, watch=True)
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
    lacking = missing(replace(PAIR, **change))
    assert words in str(lacking)
    assert button_text(lacking, running=False) == lacking


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
    assert words in str(missing(PAIR, settings, outputs))


def test_nothing_is_missing() -> None:
    assert missing(PAIR) is None
    assert missing(replace(PAIR, labels="l")) is None
    assert button_text(None, running=False) == "Register"
    assert button_text("anything", running=True) == "Cancel"
    assert button_text(None, running=True, cancelling=True) == "Cancelling …"


@given(st.builds(Inputs, **{item.name: st.sampled_from([None, "a", "b"]) for item in fields(Inputs)}))
def test_what_is_not_missing_can_be_registered(inputs: Inputs) -> None:
    if missing(inputs) is None:
        assert inputs.fixed
        assert inputs.moving
        assert inputs.fixed != inputs.moving
        assert bool(inputs.fixed_landmarks) == bool(inputs.moving_landmarks)
        assert inputs.labels or not inputs.fixed_labels


def test_the_transform_alone_is_enough() -> None:
    alone = Outputs(warped=False, transform="full", inverse=False, maps=False, labels=False, measures=False)
    assert missing(PAIR, outputs=alone) is None


# What has an effect


def test_without_refinement_its_settings_have_no_effect() -> None:
    on = enabled(Settings(refine=0))
    assert not any(on[name] for name in ("similarity", "regularization", "regularization_map", "landmark_weight"))
    assert all(enabled(Settings(refine=0, model="none"))[name] for name in ("similarity", "regularization"))
    assert enabled(Settings(refine=1))["similarity"]
    assert enabled(Settings(refine=None))["similarity"], "the model may recommend some"


def test_landmarks_pull_only_in_pairs() -> None:
    both = replace(PAIR, fixed_landmarks="p", moving_landmarks="q")
    assert enabled(Settings(), both)["landmark_weight"]
    assert not enabled(Settings(), replace(both, moving_landmarks=None))["landmark_weight"]


def test_what_will_be_ignored_is_said() -> None:
    inputs = replace(PAIR, regularization_map="r", fixed_landmarks="p", moving_landmarks="q")
    assert len(without_effect(Settings(refine=0, landmark_weight=1.0), inputs)) == 2
    for steps in (3, None):
        assert without_effect(Settings(refine=steps, landmark_weight=1.0), inputs) == []
