"""Progress of a whole job and the time that is left, by a clock that the test turns."""

from __future__ import annotations

import pytest
from DeepRegAttentionLib.jobs.messages import STAGES
from DeepRegAttentionLib.worker.pace import SECONDS, Pace
from hypothesis import given
from hypothesis import strategies as st

PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(expected: dict, real: dict) -> list:
    """Every word of a job whose stages take `real` seconds: (seconds that were really left, progress)."""
    clock, said = Clock(), []
    pace, end = Pace(expected, clock), 100.0 + sum(real.values())
    for stage, seconds in real.items():
        begin = clock.now
        for part in PARTS:
            clock.now = begin + part * seconds
            said.append((end - clock.now, pace.at(stage, part)))
    return said


def test_the_stages_are_those_of_a_job() -> None:
    assert tuple(SECONDS) == STAGES


def test_a_job_as_expected_is_foretold_exactly() -> None:
    said = run(SECONDS, dict(SECONDS))
    whole = sum(SECONDS.values())
    for left, (fraction, eta) in said:
        assert fraction == pytest.approx(1 - left / whole, abs=1e-6)
        assert eta is None or eta == pytest.approx(left, abs=1e-6)
    assert said[-1][1].fraction == 1


def test_the_time_left_is_unknown_until_something_was_measured() -> None:
    said = run(SECONDS, dict(SECONDS))
    assert [progress.eta_s for _, progress in said[: len(PARTS)]] == [None] * len(PARTS)
    assert all(progress.eta_s is not None for _, progress in said[len(PARTS) :])


def test_a_slow_computer_is_learned_from_the_stages_that_are_over() -> None:
    real = {stage: 8 * seconds for stage, seconds in SECONDS.items()}
    said = run(SECONDS, real)
    (left, early), (later_left, later) = said[len(PARTS)], said[3 * len(PARTS)]
    assert early.eta_s < 0.8 * left
    assert later.eta_s == pytest.approx(later_left, rel=0.1)


def test_an_unexpected_stage_is_taken_as_it_comes() -> None:
    said = run({"read": 1.0, "write": 1.0}, {"read": 1.0, "refine": 30.0, "write": 1.0})
    assert said[-1][1].fraction == 1


@given(st.lists(st.floats(0, 50), min_size=len(STAGES), max_size=len(STAGES)), st.sets(st.sampled_from(STAGES[1:])))
def test_the_fraction_never_falls_and_ends_at_one(times: list, missing: set) -> None:
    real = {stage: seconds for stage, seconds in zip(STAGES, times) if stage not in missing}
    fractions = [progress.fraction for _, progress in run(SECONDS, real)]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] <= 1
    assert "write" in missing or fractions[-1] == 1
