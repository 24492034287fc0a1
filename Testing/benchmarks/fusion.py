"""Labels of hippocampi by fusion, against the best atlas alone: the method of “deepreg-attention fuse”, measured.

    python Testing/benchmarks/fusion.py ../shared/data STUDY --targets 20 --atlases 10 --model hippocampus-mr

Targets are test cases of the training configuration, which no model has seen; atlases are training cases, evenly
spread. The best atlas is the one whose labels alone have the highest mean overlap over all targets; the test of the
paired differences from it is Wilcoxon's, two-sided. STUDY is kept: started again, only what is missing is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from DeepRegAttentionLib.cohort.atlases import LabelFusion, Target, best_single
from DeepRegAttentionLib.cohort.fusion import METHODS, FusionOptions
from DeepRegAttentionLib.cohort.pairs import Settings
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.options import RegistrationOptions
from scipy.stats import wilcoxon
from trials import Cases, spread

TASK = "hippocampus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--atlases", type=int, default=10)
    parser.add_argument("--model", default="hippocampus-mr")
    arguments = parser.parse_args()
    cases = Cases(arguments.data)
    targets, atlases = (
        [cases.files(case) for case in spread(cases.names(TASK, part), count)]
        for part, count in (("report", arguments.targets), ("trained", arguments.atlases))
    )
    settings = Settings(RegistrationOptions(model=arguments.model, maps=False))
    found = {method: fused(targets, atlases, settings, arguments.study, method) for method in METHODS}
    name, single = best_single(found[METHODS[0]])
    print(f"{arguments.model}: {len(targets)} targets, {len(atlases)} atlases\n")
    print("| labels of | mean Dice | p |\n|---|---|---|")
    print(f"| the mean atlas alone | {np.mean([np.mean(list(t.single.values())) for t in found[METHODS[0]]]):.3f} | |")
    print(f"| the best atlas alone | {single:.3f} | |")
    for method, results in found.items():
        dice = [target.dice for target in results]
        p = wilcoxon(dice, [target.single[name] for target in results]).pvalue
        print(f"| {method} | {np.mean(dice):.3f} | {p:.1g} |")


def fused(
    targets: list[ImageFiles], atlases: list[ImageFiles], settings: Settings, study: Path, method: str
) -> list[Target]:
    """What the command makes; the registrations are the same for all methods."""
    fusion = LabelFusion(targets, atlases, settings, study, FusionOptions(method))
    for number, outcome in enumerate(fusion.register(), start=1):
        print(f"\r{number} of {len(fusion.pairs)} registered {outcome.sentence}", end="", flush=True)
    print()
    return list(fusion.fuse())


if __name__ == "__main__":
    main()
