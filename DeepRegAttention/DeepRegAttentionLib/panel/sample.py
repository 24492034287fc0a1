"""The pair of volumes that comes with the module, in the module Sample Data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

NAME = "DeepRegAttentionPair"
CATEGORY = "DeepRegAttention"
FILES = {"ICBM152": "icbm152-t1.nii.gz", "Colin27": "colin27-t1.nii.gz"}
"""File of each volume, by the name of its node: first the fixed, then the moving one."""


def register_sample_data(resources: Path) -> None:
    """Offer the pair in Sample Data; its files are here already, so nothing is downloaded."""
    import SampleData

    folder = resources / "Samples"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(resources / "Icons" / f"{NAME}.png"),
        uris=[(folder / file).as_uri() for file in FILES.values()],
        fileNames=list(FILES.values()),
        nodeNames=list(FILES),
        # Without it, a script that asks Sample Data for .nii.gz gets segmentations.
        loadFileTypes=["VolumeFile"] * len(FILES),
        customDownloader=lambda source: show_pair(load_pair(resources)),
    )


def load_pair(resources: Path) -> list[Any]:
    """The fixed and the moving volume, in this order, as nodes of the scene."""
    paths = {name: resources / "Samples" / file for name, file in FILES.items()}
    slicer.util.showStatusMessage(_("Loading the sample pair …"), 2000)
    return [slicer.util.loadVolume(str(path), {"name": name, "show": False}) for name, path in paths.items()]


def show_pair(pair: list[Any]) -> list[Any]:
    """Show the moving over the fixed volume, half transparent, in all slice views."""
    fixed, moving = pair
    slicer.util.setSliceViewerLayers(background=fixed, foreground=moving, foregroundOpacity=0.5, fit=True)
    return pair
