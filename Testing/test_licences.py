"""Consent to restricted licences: what is asked, when, and what is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.models.listing import list_models
from DeepRegAttentionLib.terms.licences import Answered, Consents, refusal_text
from DeepRegAttentionLib.terms.settings import AUTO, Settings

MODELS: list[ModelInfo] = [
    *(replace(model.info, restriction="") for model in list_models()[:1]),
    replace(list_models()[0].info, name="a", restriction="Not for sale."),
    replace(list_models()[0].info, name="b", restriction="Ask the author."),
]
FREE = MODELS[0].name


class Person:
    """Answers questions, and keeps them."""

    def __init__(self, agrees: bool = True) -> None:
        self.agrees = agrees
        self.asked: list[str] = []
        self.memory: dict[str, str] = {}
        self.consents = Consents(MODELS, self.memory, self.put)

    def put(self, question: str, answered: Answered) -> None:
        self.asked.append(question)
        answered(self.agrees)

    def said(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        settings = self.consents.add_to(Settings(refine=3))
        assert settings.refine == 3
        return settings.accepted_licences, settings.undecided_licences

    def require(self, model: str) -> bool:
        heard: list[bool] = []
        self.consents.require(model, heard.append)
        (agreed,) = heard
        return agreed


def test_at_first_nothing_is_decided() -> None:
    assert Person().said() == ((), ("a", "b"))


@pytest.mark.parametrize("model", [FREE, AUTO, "none", "file"])
def test_what_is_free_to_use_asks_nothing(model: str) -> None:
    person = Person()
    assert person.require(model)
    assert person.asked == []


def test_a_model_chosen_by_name_is_asked_about_once() -> None:
    person = Person()
    assert person.require("a")
    assert person.require("a")
    assert person.asked == ["The model a asks for your consent: Not for sale. Do you agree?"]
    assert person.said() == (("a",), ("b",))


def test_a_no_is_remembered_and_asked_again_only_for_the_name() -> None:
    person = Person(agrees=False)
    assert not person.require("a")
    assert person.said() == ((), ("b",)), "it is passed over in silence from now on"
    person.agrees = True
    assert person.require("a")
    assert person.said() == (("a",), ("b",))
    assert "a is used only with your consent" in refusal_text("a")


def test_the_answers_outlive_who_asked() -> None:
    person = Person()
    person.require("b")
    later = Consents(MODELS, person.memory, lambda question, answered: pytest.fail(question))
    later.require("b", lambda agreed: None)
    assert later.add_to(Settings()).accepted_licences == ("b",)


def test_an_answer_may_come_later() -> None:
    waiting: list[Answered] = []
    consents = Consents(MODELS, {}, lambda question, answered: waiting.append(answered))
    heard: list[bool] = []
    consents.ask("a", heard.append)
    assert heard == []
    waiting[0](True)
    assert heard == [True]
    assert consents.add_to(Settings()).accepted_licences == ("a",)
