"""How far the expected error and the verdict can be trusted.

    python Testing/benchmarks/trust.py errors ../shared/data --output trust --record
    python Testing/benchmarks/trust.py limits ../shared/data --output trust --record
    python Testing/benchmarks/trust.py failures ../shared/data --output trust --record
    python Testing/benchmarks/trust.py gallery

``errors`` fits the expected error where the truth is known and judges it, ``limits`` takes the limits of the verdict
from pairs that go well, ``failures`` says which of the pairs that were made to fail are noticed, ``gallery`` draws some
of them. Results of the first three are kept in the folder ``--output``: an interrupted run goes on.
"""

from __future__ import annotations

import argparse

import errors
import verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    errors.add_command(commands)
    verdicts.add_commands(commands)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
