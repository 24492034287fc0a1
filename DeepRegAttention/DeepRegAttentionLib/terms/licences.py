"""Consent to restricted licences: asked once for each model, and remembered where a panel or a page keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Callable, Optional, Protocol

from ..engine.models.info import ModelInfo
from .settings import Settings
from .translation import translator

_ = translator(__name__)

ACCEPTED, DECLINED = "accepted", "declined"

Answered = Callable[[bool], None]
"""Called with whether the person agrees."""


class Memory(Protocol):
    """Where answers are kept, by the names of models; a dictionary will do."""

    def get(self, name: str) -> Optional[str]:
        """The answer; None or empty if there is none."""

    def __setitem__(self, name: str, answer: str) -> None:
        """Keep an answer."""


class Consents:
    """What a person has said about the models whose licence is restricted.

    Parameters
    ----------
    models : sequence of ModelInfo
        All models; only those with a restriction matter.
    memory : Memory
        Where the answers are.
    put : callable
        Puts a question to the person, now or when there is time, and tells the answer to what it is given.
    """

    def __init__(self, models: Sequence[ModelInfo], memory: Memory, put: Callable[[str, Answered], None]) -> None:
        self._restrictions: Mapping[str, str] = {m.name: m.restriction for m in models if m.restriction}
        self._memory, self._put = memory, put

    def add_to(self, settings: Settings) -> Settings:
        """The settings with what was answered, so that the worker knows what it may choose and when to ask."""
        accepted, undecided = self._answered(ACCEPTED), self._answered("")
        return replace(settings, accepted_licences=accepted, undecided_licences=undecided)

    def _answered(self, answer: str) -> tuple[str, ...]:
        return tuple(name for name in self._restrictions if (self._memory.get(name) or "") == answer)

    def require(self, model: str, then: Answered) -> None:
        """Before a model is used that was chosen by name: ask, unless it is free to use or was agreed to."""
        if model in self._restrictions and model not in self._answered(ACCEPTED):
            self.ask(model, then)
        else:
            then(True)

    def ask(self, model: str, then: Answered) -> None:
        """Put the question, keep the answer, go on with it."""

        def keep(agreed: bool) -> None:
            self._memory[model] = ACCEPTED if agreed else DECLINED
            then(agreed)

        question = _("The model {name} asks for your consent: {restriction} Do you agree?")
        self._put(question.format(name=model, restriction=self._restrictions[model]), keep)


def refusal_text(model: str) -> str:
    """Why nothing was started after a no to a model that was chosen by name."""
    return _("The model {name} is used only with your consent; choose another one.").format(name=model)
