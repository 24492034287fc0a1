"""The words for models, choices, devices and progress."""

from __future__ import annotations

from dataclasses import replace

import pytest
from DeepRegAttentionLib.engine import options
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.models.listing import list_models
from DeepRegAttentionLib.jobs import messages
from DeepRegAttentionLib.terms import choices
from DeepRegAttentionLib.terms.choices import Choice
from DeepRegAttentionLib.terms.models import model_choices, model_text
from DeepRegAttentionLib.terms.presets import preset_choices
from DeepRegAttentionLib.terms.settings import AUTO, FILE, NONE
from DeepRegAttentionLib.terms.translation import translate_with
from DeepRegAttentionLib.terms.wording import (
    button_text,
    device_text,
    device_trouble,
    progress_text,
    stage_text,
    time_left,
)

# Models


def models() -> list[ModelInfo]:
    return [model.info for model in list_models()]


def test_a_model_says_what_it_is_trained_on_and_its_licence() -> None:
    for model in models():
        text = model_text(model.name, models())
        assert model.description in text
        assert model.training_data in text
        assert model.licence in text


@pytest.mark.parametrize("name", [AUTO, NONE, FILE])
def test_every_other_choice_is_explained(name: str) -> None:
    assert len(model_text(name, [])) > 20
    (choice,) = [choice for choice in model_choices([]) if choice.value == name]
    assert choice.text != name


def test_the_list_of_models_begins_with_choosing_and_may_end_with_a_file() -> None:
    names = [choice.value for choice in model_choices(models())]
    assert names == [AUTO, *(model.name for model in models()), NONE, FILE]
    assert [choice.value for choice in model_choices(models(), files=False)] == names[:-1]


def test_the_measured_accuracy_is_shown() -> None:
    accuracy = {"data": "LPBA40", "network": {"dice": 0.7158}, "with_steps": {"dice": 0.7251}}
    model = replace(models()[0], accuracy=accuracy)
    assert "Dice 0.72 network, 0.73 with steps (LPBA40)" in model_text(model.name, [model])


# Choices


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        (options.DEVICES, choices.device_choices()),
        (options.PRECISIONS, choices.precision_choices()),
        (options.PREALIGNMENTS, choices.prealign_choices()),
        (options.SIMILARITIES, choices.similarity_choices()),
    ],
)
def test_every_value_of_the_engine_can_be_chosen_in_words(values: tuple[str, ...], listed: list[Choice]) -> None:
    assert sorted(choice.value for choice in listed) == sorted(values)
    assert len({choice.text for choice in listed}) == len(values)


def test_within_a_sentence_a_choice_has_its_own_words() -> None:
    listed = [Choice("a", "Apple", phrase="an apple"), Choice("b", "MIND")]
    assert [choices.phrase_of(listed, value) for value in "abc"] == ["an apple", "MIND", "c"]


# Device

CPU = {"name": "some CPU", "free_gib": 5.0, "total_gib": 16.0}


def test_the_memory_is_shown_and_what_is_needed() -> None:
    text = device_text({"cpu": {**CPU, "needed_gib": 2.14}}, "auto")
    assert "some CPU: 5.0 of 16.0 GiB free" in text
    assert "about 2.1 GiB" in text
    assert "coarser" not in text
    assert "coarser" in device_text({"cpu": {**CPU, "needed_gib": 6.0}}, "cpu")


def test_automatic_means_the_gpu_where_there_is_one() -> None:
    devices = {"cpu": CPU, "cuda": {"name": "H", "free_gib": 7.0, "total_gib": 8.0}}
    assert device_text(devices, "auto").startswith("H: 7.0 of 8.0")
    assert device_text(devices, "cpu").startswith("some CPU")
    assert "no MPS device" in device_text(devices, "mps")
    assert device_text(None, "auto") == ""


def test_only_what_stands_against_a_device_is_said_without_being_asked() -> None:
    assert device_trouble(None, "auto") == device_trouble({"cpu": {**CPU, "needed_gib": 2.0}}, "cpu") == ""
    assert "coarser" in device_trouble({"cpu": {**CPU, "needed_gib": 6.0}}, "auto")
    assert "no MPS device" in device_trouble({"cpu": CPU}, "mps")


def test_a_device_that_says_nothing_of_its_memory_has_a_name() -> None:
    assert device_text({"cpu": {"name": "x"}}, "auto") == "x"


# Progress


@pytest.mark.parametrize("stage", messages.STAGES)
def test_every_stage_has_a_name_for_people(stage: str) -> None:
    assert stage_text(stage) != stage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (1.2, "almost done"), (7.4, "about 7 s left"), (63.0, "about 65 s left"), (200.0, "about 3 min left")],
)
def test_the_time_left_is_as_exact_as_it_can_be(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_the_progress_is_one_line() -> None:
    assert progress_text("refine", 0.404, 12.0) == "Refining · 40 % · about 10 s left"
    assert progress_text("network", 0.61, 2.0) == "Network · 61 % · a few seconds left"
    assert progress_text("measure", 0.93, 2.0) == "Measuring · 93 % · almost done"
    assert progress_text("something new", 1.7) == "something new · 100 %"
    assert progress_text(None) == "Starting"


# Translation


def test_every_text_goes_through_the_translation() -> None:
    translate_with(lambda context, text: f"{context}: {text.upper()}")
    try:
        assert button_text(None, running=False) == "terms.wording: REGISTER"
        assert preset_choices()[0].text == "terms.presets: FAST"
    finally:
        translate_with(lambda context, text: text)
