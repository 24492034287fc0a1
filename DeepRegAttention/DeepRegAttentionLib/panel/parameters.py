"""Everything that the panel remembers, in the parameter node: saved with the scene and restored from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Callable, Optional, Union

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from ..terms.cohorts import TO_ATLAS
from ..terms.inputs import INPUTS, Inputs
from ..terms.settings import CONSENT, Outputs, Settings

Structures = Union[slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLSegmentationNode, None]
Part = Annotated[float, WithinRange(0, 1)]
# Without a range 3D Slicer takes the one of the .ui away, and with it the text that stands for the least value.
Steps = Annotated[int, WithinRange(-1, 10_000)]
Strength = Annotated[float, WithinRange(-0.1, 10_000)]
Weight = Annotated[float, WithinRange(0, 10_000)]
Spacing = Annotated[float, WithinRange(0, 50)]

MODELS_OWN: Mapping[str, Any] = {"refine": -1, "regularization": -0.1, "spacing": 0.0}
"""Stands for “the model's own” in the settings that can be left to it: spin boxes have no None, but a text for their
least value. Nothing outside this file knows these numbers."""

if TYPE_CHECKING:

    class Wrapper:
        """What ``parameterNodeWrapper`` adds to a class."""

        parameterNode: slicer.vtkMRMLScriptedModuleNode
        getValue: Callable[[str], Any]
        setValue: Callable[[str, Any], None]
        connectParametersToGui: Callable[[Mapping[str, Any]], Any]
        disconnectGui: Callable[[Any], None]
        AddObserver: Callable[[Any, Callable[..., None]], int]
        RemoveObserver: Callable[[int], None]

        def __init__(self, parameterNode: slicer.vtkMRMLScriptedModuleNode) -> None: ...

else:
    Wrapper = object


_SETTINGS, _OUTPUTS = Settings(), Outputs()
_KEPT = tuple(item.name for item in fields(Settings) if item.name not in CONSENT)


@parameterNodeWrapper
class Parameters(Wrapper):
    """Inputs, settings, outputs, a cohort, and what is looked at; settings are called as in ``Settings``."""

    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode
    fixedMask: Structures
    movingMask: Structures
    initialTransform: slicer.vtkMRMLTransformNode
    regularizationMap: slicer.vtkMRMLScalarVolumeNode
    fixedLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    movingLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    labels: Structures
    fixedLabels: Structures

    model: str = _SETTINGS.model
    modelFile: str = _SETTINGS.model_file
    device: str = _SETTINGS.device
    precision: str = _SETTINGS.precision
    prealign: str = _SETTINGS.prealign
    refine: Steps = MODELS_OWN["refine"]
    similarity: str = _SETTINGS.similarity
    regularization: Strength = MODELS_OWN["regularization"]
    landmarkWeight: Weight = _SETTINGS.landmark_weight
    spacing: Spacing = MODELS_OWN["spacing"]

    wantTransform: str = _OUTPUTS.transform
    wantWarped: bool = _OUTPUTS.warped
    wantInverse: bool = _OUTPUTS.inverse
    wantMaps: bool = _OUTPUTS.maps
    wantLabels: bool = _OUTPUTS.labels
    wantMeasures: bool = _OUTPUTS.measures
    watch: bool = True
    keepFiles: bool = False

    batchSource: str = ""
    batchPairing: str = TO_ATLAS
    batchAtlas: str = ""
    batchAtlasLabels: str = ""
    batchImages: str = ""
    batchStudy: str = ""

    result: slicer.vtkMRMLScriptedModuleNode
    comparison: str = "blend"
    amount: Part = 0.5
    before: bool = False
    overlay: str = "none"
    opacity: Part = 0.5
    useThreshold: bool = False
    thresholdLow: float = 0.0
    thresholdHigh: float = 1.0
    legend: bool = True
    deformation: str = "none"
    gridSpacing: Annotated[float, WithinRange(0.5, 100)] = 10.0
    scale: Annotated[float, WithinRange(0, 500)] = 100.0
    inSlices: bool = True
    in3D: bool = False
    solidSlices: bool = True
    surfaces: bool = True


WIDGETS = {
    "fixed": "fixedSelector",
    "moving": "movingSelector",
    "fixedMask": "fixedMaskSelector",
    "movingMask": "movingMaskSelector",
    "initialTransform": "initialTransformSelector",
    "regularizationMap": "regularizationMapSelector",
    "fixedLandmarks": "fixedLandmarksSelector",
    "movingLandmarks": "movingLandmarksSelector",
    "labels": "labelsSelector",
    "fixedLabels": "fixedLabelsSelector",
    "refine": "refineSpinBox",
    "regularization": "regularizationSpinBox",
    "landmarkWeight": "landmarkWeightSpinBox",
    "spacing": "spacingSpinBox",
    "wantWarped": "warpedCheckBox",
    "wantInverse": "inverseCheckBox",
    "wantMaps": "mapsCheckBox",
    "wantLabels": "labelsCheckBox",
    "wantMeasures": "measuresCheckBox",
    "watch": "watchCheckBox",
    "keepFiles": "keepFilesCheckBox",
    "amount": "amountSlider",
    "before": "beforeButton",
    "opacity": "opacitySlider",
    "useThreshold": "thresholdCheckBox",
    "legend": "legendCheckBox",
    "gridSpacing": "gridSpacingSlider",
    "scale": "scaleSlider",
    "inSlices": "inSlicesCheckBox",
    "in3D": "in3DCheckBox",
    "solidSlices": "solidSlicesCheckBox",
    "surfaces": "surfacesCheckBox",
}
"""The parameters that 3D Slicer binds to a widget by itself."""

COMBOS = {
    "model": "modelSelector",
    "device": "deviceSelector",
    "precision": "precisionSelector",
    "prealign": "prealignSelector",
    "similarity": "similaritySelector",
    "wantTransform": "transformSelector",
    "batchPairing": "batchPairingSelector",
    "comparison": "comparisonSelector",
    "overlay": "overlaySelector",
    "deformation": "deformationSelector",
}
"""Those whose combo box shows a text other than the value; see :mod:`.choices`."""


@dataclass(frozen=True)
class View:
    """What is shown of a result; two that are equal look the same."""

    comparison: str
    amount: float
    before: bool
    overlay: Optional[str]
    opacity: float
    threshold: Optional[tuple[float, float]]
    legend: bool
    deformation: str
    spacing_mm: float
    scale_percent: float
    slices: bool
    threed: bool
    solid_slices: bool
    surfaces: bool


def parameter_of(name: str) -> str:
    """The parameter of an input or a setting: its name as Qt writes names."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def input_nodes(parameters: Parameters) -> dict[str, slicer.vtkMRMLNode]:
    """The nodes that are chosen, by the names of the inputs."""
    nodes = {name: parameters.getValue(parameter_of(name)) for name in INPUTS}
    return {name: node for name, node in nodes.items() if node is not None}


def inputs_of(nodes: dict[str, slicer.vtkMRMLNode]) -> Inputs:
    """The same for the plain decisions: the ids of the nodes."""
    return Inputs(**{name: node.GetID() for name, node in nodes.items()})


def settings_of(parameters: Parameters) -> Settings:
    """How to register."""
    values = {name: parameters.getValue(parameter_of(name)) for name in _KEPT}
    for name, least in MODELS_OWN.items():
        if values[name] < 0 or values[name] == least:
            values[name] = None
    return Settings(**values)


def set_setting(parameters: Parameters, name: str, value: Any) -> None:
    """Give a setting a value of ``Settings``."""
    parameters.setValue(parameter_of(name), MODELS_OWN[name] if value is None else value)


def outputs_of(parameters: Parameters) -> Outputs:
    """What is wanted back."""
    return Outputs(
        warped=parameters.wantWarped,
        transform=parameters.wantTransform,
        inverse=parameters.wantInverse,
        maps=parameters.wantMaps,
        labels=parameters.wantLabels,
        measures=parameters.wantMeasures,
    )


def view_of(parameters: Parameters) -> View:
    """What is to be seen."""
    threshold = (parameters.thresholdLow, parameters.thresholdHigh) if parameters.useThreshold else None
    return View(
        comparison=parameters.comparison,
        amount=parameters.amount,
        before=parameters.before,
        overlay=None if parameters.overlay == "none" else parameters.overlay,
        opacity=parameters.opacity,
        threshold=threshold,
        legend=parameters.legend,
        deformation=parameters.deformation,
        spacing_mm=parameters.gridSpacing,
        scale_percent=parameters.scale,
        slices=parameters.inSlices,
        threed=parameters.in3D,
        solid_slices=parameters.solidSlices,
        surfaces=parameters.surfaces,
    )
