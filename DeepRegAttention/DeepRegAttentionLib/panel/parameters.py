"""Everything that the panel remembers, in the parameter node: saved with the scene and restored from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Callable, Dict, Mapping, Optional, Tuple, Union

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from ..terms import settings as session

Structures = Union[slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLSegmentationNode, None]
Part = Annotated[float, WithinRange(0, 1)]
# Without a range 3D Slicer takes the one of the .ui away, and with it the text that stands for the least value.
Steps = Annotated[int, WithinRange(session.MODELS_OWN, 10_000)]
Weight = Annotated[float, WithinRange(0, 10_000)]
Spacing = Annotated[float, WithinRange(0, 50)]

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


_SETTINGS, _OUTPUTS = session.Settings(), session.Outputs()


@parameterNodeWrapper
class Parameters(Wrapper):
    """Inputs, settings, outputs, and what is looked at; the names of the settings are those of ``Settings``."""

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
    refine: Steps = _SETTINGS.refine
    similarity: str = _SETTINGS.similarity
    regularization: Weight = _SETTINGS.regularization
    landmarkWeight: Weight = _SETTINGS.landmark_weight
    spacing: Spacing = _SETTINGS.spacing

    wantTransform: str = _OUTPUTS.transform
    wantWarped: bool = _OUTPUTS.warped
    wantInverse: bool = _OUTPUTS.inverse
    wantMaps: bool = _OUTPUTS.maps
    wantLabels: bool = _OUTPUTS.labels
    wantMeasures: bool = _OUTPUTS.measures
    watch: bool = True
    keepFiles: bool = False

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
}
"""The parameters that 3D Slicer binds to a widget by itself."""

COMBOS = {
    "model": "modelSelector",
    "device": "deviceSelector",
    "precision": "precisionSelector",
    "prealign": "prealignSelector",
    "similarity": "similaritySelector",
    "wantTransform": "transformSelector",
    "comparison": "comparisonSelector",
    "overlay": "overlaySelector",
    "deformation": "deformationSelector",
}
"""Those whose combo box shows a text other than the value; see :mod:`.choices`."""

INPUTS = {
    "fixed": "fixed",
    "moving": "moving",
    "fixed_mask": "fixedMask",
    "moving_mask": "movingMask",
    "initial_transform": "initialTransform",
    "regularization_map": "regularizationMap",
    "fixed_landmarks": "fixedLandmarks",
    "moving_landmarks": "movingLandmarks",
    "labels": "labels",
    "fixed_labels": "fixedLabels",
}
"""The parameter of each field of ``messages.Inputs``."""


@dataclass(frozen=True)
class View:
    """What is shown of a result; two that are equal look the same."""

    comparison: str
    amount: float
    before: bool
    overlay: Optional[str]
    opacity: float
    threshold: Optional[Tuple[float, float]]
    legend: bool
    deformation: str
    spacing_mm: float
    scale_percent: float
    slices: bool
    threed: bool


def input_nodes(parameters: Parameters) -> Dict[str, slicer.vtkMRMLNode]:
    """The nodes that are chosen, by the fields of ``messages.Inputs``."""
    nodes = {name: parameters.getValue(parameter) for name, parameter in INPUTS.items()}
    return {name: node for name, node in nodes.items() if node is not None}


def selection_of(nodes: Dict[str, slicer.vtkMRMLNode]) -> session.Selection:
    """The same for the plain decisions: the ids of the nodes."""
    return session.Selection(**{name: node.GetID() for name, node in nodes.items()})


def settings_of(parameters: Parameters) -> session.Settings:
    """How to register."""
    return session.Settings(
        model=parameters.model,
        model_file=parameters.modelFile,
        device=parameters.device,
        precision=parameters.precision,
        prealign=parameters.prealign,
        refine=parameters.refine,
        similarity=parameters.similarity,
        regularization=parameters.regularization,
        landmark_weight=parameters.landmarkWeight,
        spacing=parameters.spacing,
    )


def outputs_of(parameters: Parameters) -> session.Outputs:
    """What is wanted back."""
    return session.Outputs(
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
    )
