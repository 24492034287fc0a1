"""Consent to restricted licences inside 3D Slicer: one dialog a model, the answer kept in the user's settings."""

from __future__ import annotations

from typing import Optional

import slicer
from slicer.i18n import tr as _

from ..terms.licences import Answered

_PREFIX = "DeepRegAttention/Licences/"


class UserSettings:
    """The answers in the settings of the user, which every scene and every start of 3D Slicer sees."""

    def get(self, name: str) -> Optional[str]:
        """The answer about a model; None if there is none."""
        answer: Optional[str] = slicer.app.userSettings().value(_PREFIX + name)
        return answer

    def __setitem__(self, name: str, answer: str) -> None:
        slicer.app.userSettings().setValue(_PREFIX + name, answer)


def put_question(question: str, answered: Answered) -> None:
    """Ask in a dialog, which waits for the answer."""
    answered(slicer.util.confirmYesNoDisplay(question, _("Licence of a model")))
