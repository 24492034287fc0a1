"""What was done to make a result: the program, the model, the method, the images."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import SimpleITK as sitk

from ..engine.geometry import Grid
from ..terms.choices import phrase_of, prealign_choices, similarity_choices


def facts_table(metrics: Mapping[str, Any], fixed: sitk.Image, moving: sitk.Image) -> str:
    """The table at the head of the page; what the metrics do not say is left out."""
    facts = {
        "Program": f"DeepRegAttention {metrics['version']}" if "version" in metrics else "",
        "Model": _model_words(metrics),
        "Method": _method_words(metrics),
        "Computed": _computation_words(metrics),
        "Fixed image": _image_words(fixed),
        "Moving image": _image_words(moving),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{escape(words)}</td></tr>" for name, words in facts.items() if words)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _model_words(metrics: Mapping[str, Any]) -> str:
    model, reason = metrics.get("model"), str(metrics.get("model_choice") or "")
    if model is None:
        return f"None. {reason}" if reason else ""
    return f"{model['name']} ({model['network']}, SHA-256 {model['sha256'][:12]}…). {reason}"


def _method_words(metrics: Mapping[str, Any]) -> str:
    options = metrics.get("options")
    if not options:
        return ""
    words = [phrase_of(prealign_choices(), options["prealign"])]
    if metrics.get("model"):
        words.append("network")
    else:
        words.append("refinement on coarser grids")
    steps = metrics.get("refinement_steps")
    if steps:
        weight = metrics.get("regularization", options["regularization"])
        words.append(f"{steps} steps of refinement by {_goal_words(metrics)}, smoothness {weight:g}")
        if options["landmark_weight"]:
            words.append(f"landmarks with weight {options['landmark_weight']:g}")
    text = ", then ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _goal_words(metrics: Mapping[str, Any]) -> str:
    """What the refinement makes alike."""
    similarity, seen = phrase_of(similarity_choices(), metrics["options"]["similarity"]), metrics.get("structures")
    if not seen:
        return similarity
    structures = f"{seen['recognised']} recognised structures"
    return structures if seen["share"] == 1 else f"{similarity} and {structures} ({seen['share']:.0%})"


def _computation_words(metrics: Mapping[str, Any]) -> str:
    grid = metrics.get("working_grid")
    if not grid:
        return ""
    size = " × ".join(map(str, grid["size"]))
    where = f"On the {str(metrics['device']).upper()} in {metrics['precision']}"
    return f"{where}, on a grid of {size} voxels of {grid['spacing_mm']:.3g} mm."


def _image_words(image: sitk.Image) -> str:
    grid = Grid.of(image)
    size, spacing = " × ".join(map(str, grid.size)), " × ".join(f"{s:.3g}" for s in grid.spacing)
    return f"{size} voxels of {spacing} mm, {image.GetPixelIDTypeAsString()}"
