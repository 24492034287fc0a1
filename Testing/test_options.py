"""Every invalid option, and what is said about it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.options import DEVICES, PREALIGNMENTS, PRECISIONS, SIMILARITIES, RegistrationOptions
from hypothesis import given
from hypothesis import strategies as st

CHOICES = {"prealign": PREALIGNMENTS, "similarity": SIMILARITIES, "device": DEVICES, "precision": PRECISIONS}
RANGES = {
    "refine": (0, 10_000),
    "regularization": (0.0, 1e4),
    "landmark_weight": (0.0, 1e4),
    "spacing": (0.05, 50.0),
    "threads": (1, 1024),
}
WHOLE = ("refine", "threads")
OPTIONAL = ("refine", "regularization", "spacing", "threads")


def test_the_defaults_are_valid() -> None:
    assert RegistrationOptions() == RegistrationOptions.from_mapping({})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in CHOICES for value in CHOICES[name]])
def test_every_choice_is_accepted(name: str, value: str) -> None:
    assert getattr(RegistrationOptions.from_mapping({name: value}), name) == value


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "Nearest", None, 3, True, ["cpu"]])
def test_any_other_choice_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"{name} must be one of {', '.join(CHOICES[name])}"):
        RegistrationOptions.from_mapping({name: value})


@pytest.mark.parametrize(
    ("name", "typo", "meant"),
    [("prealign", "afine", "affine"), ("similarity", "LNCC".lower() + "c", "lncc"), ("device", "cudda", "cuda")],
)
def test_a_typing_error_gets_a_suggestion(name: str, typo: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"did you mean “{meant}”"):
        RegistrationOptions.from_mapping({name: typo})


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range_are_accepted_and_what_lies_beyond_is_not(name: str) -> None:
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(RegistrationOptions.from_mapping({name: value}), name) == value
    step = 1 if name in WHOLE else 1e-3
    for value in (low - step, high + step):
        with pytest.raises(OptionError, match=f"{name} must .*between {low:g} and {high:g}"):
            RegistrationOptions.from_mapping({name: value})


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["2", True, float("nan"), float("inf"), float("-inf"), [2], 2j])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        RegistrationOptions.from_mapping({name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_must_be_whole(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a whole number"):
        RegistrationOptions.from_mapping({name: 2.5})


@pytest.mark.parametrize("name", RANGES)
def test_none_leaves_the_choice_to_the_model_where_documented(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(RegistrationOptions.from_mapping({name: None}), name) is None
    else:
        with pytest.raises(OptionError, match=name):
            RegistrationOptions.from_mapping({name: None})


@pytest.mark.parametrize("value", ["", 3, None, ["auto"]])
def test_a_model_must_have_a_name(value: object) -> None:
    with pytest.raises(OptionError, match="model"):
        RegistrationOptions.from_mapping({"model": value})


@pytest.mark.parametrize("name", ["accepted_licences", "undecided_licences"])
@pytest.mark.parametrize("value", ["cardiac-mr", [3], None])
def test_licences_are_a_list_of_names(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a list of names of models"):
        RegistrationOptions.from_mapping({name: value})


@pytest.mark.parametrize("value", ["no", 0, None])
def test_maps_are_made_or_not(value: object) -> None:
    with pytest.raises(OptionError, match="maps"):
        RegistrationOptions.from_mapping({"maps": value})


@pytest.mark.parametrize(
    ("key", "meant"), [("regularisation", "regularization"), ("pre_align", "prealign"), ("Spacing", "spacing")]
)
def test_an_unknown_key_gets_a_suggestion(key: str, meant: str) -> None:
    with pytest.raises(OptionError, match=f"no option “{key}” .did you mean “{meant}”"):
        RegistrationOptions.from_mapping({key: 1})


def test_a_strange_key_gets_none() -> None:
    with pytest.raises(OptionError, match=r"There is no option “zzz”\.") as raised:
        RegistrationOptions.from_mapping({"zzz": 1})
    assert "mean" not in str(raised.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["auto", "none", "brain-t1"]),
            **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
            "refine": st.none() | st.integers(0, 10_000),
            "landmark_weight": st.floats(0, 1e4),
            "regularization": st.none() | st.floats(0, 1e4),
            "spacing": st.none() | st.floats(0.05, 50),
            "maps": st.booleans(),
            "levels": st.booleans(),
            "threads": st.none() | st.integers(1, 1024),
            "accepted_licences": st.tuples() | st.tuples(st.just("cardiac-mr")),
        },
    )
)
def test_options_survive_a_file(values: dict[str, object]) -> None:
    options = RegistrationOptions.from_mapping(values)
    assert RegistrationOptions.from_mapping(json.loads(json.dumps(options.to_dict()))) == options


def test_options_cannot_be_changed_past_their_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RegistrationOptions().refine = -1  # type: ignore[misc]
    with pytest.raises(OptionError):
        dataclasses.replace(RegistrationOptions(), refine=-1)
