"""One page by which a person judges a registration by eye: what was done, how well it went, and pictures."""

from __future__ import annotations

import math
import tempfile
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import SimpleITK as sitk

from ..engine.errors import OutputError
from ..engine.geometry import Grid
from ..engine.result import RegistrationResult
from .figures import Picture, result_pictures

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f23; --soft: #5c6670; --line: #d9dee3;
  --card: #f5f7f9; --accent: #1f6fb2; --before: #98a4b0; --good: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1113; --ink: #dfe5ea; --soft: #98a4b0;
  --line: #2b3238; --card: #181c20; --accent: #58a6e0; --before: #6b7680; --good: #57c271; --bad: #ff8078; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 66rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .2rem; }
p, figcaption { margin: 0 0 .5rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .28rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts th { width: 11rem; color: var(--soft); font-weight: 500; }
.soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
figure { margin: 0 0 1.4rem; padding: .9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
.flick { background-size: 100% 100%; background-image: var(--fixed); border-radius: 6px; }
.flick:hover img, .flick:focus img { opacity: 0; }
tbody th { font-weight: 500; }
.scroll { max-height: 34rem; overflow: auto; padding: .8rem; margin-bottom: 1.4rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
.bars { columns: 2 24rem; column-gap: 2rem; }
.bars div { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr 6.5rem; gap: .6rem; align-items: center;
  font-size: .85rem; break-inside: avoid; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }
.bars svg { width: 100%; height: .8rem; display: block; }
@media print { .scroll { max-height: none; } }
"""

_ALIGNMENTS = {
    "none": "no linear alignment",
    "centre": "centres of the objects joined",
    "rigid": "rigid alignment",
    "affine": "affine alignment",
}
_SIMILARITIES = {
    "lncc": "local cross-correlation",
    "mind": "MIND self-similarity",
    "mi": "mutual information",
    "mse": "squared difference",
}
_UP, _DOWN = "↑", "↓"
# Key, name, direction in which it improves, decimals.
_MEASURES = (
    ("ncc", "Cross-correlation (NCC)", _UP, 4),
    ("ssim", "Structural similarity (SSIM)", _UP, 4),
    ("nmi", "Normalised mutual information (NMI)", _UP, 4),
    ("mse", "Mean squared difference (MSE)", _DOWN, 5),
)
Row = Tuple[str, ...]


def write_report(
    result: RegistrationResult,
    fixed: sitk.Image,
    moving: sitk.Image,
    path: Union[str, Path],
    label_names: Optional[Mapping[int, str]] = None,
) -> Path:
    """Write a report of one registration: a single HTML file with everything in it.

    What the result does not have (a map, an overlap, landmarks) is left out.

    Parameters
    ----------
    result : RegistrationResult
        Of these two images.
    fixed, moving : sitk.Image
        As they were registered, each on its own grid, LPS mm.
    path : str or Path
        Of the file; it appears there, or replaces an older one, only when it is complete.
    label_names : mapping of int to str, optional
        Names of the structures in the label maps.

    Returns
    -------
    Path
        Where the report is.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    page = _page(result, fixed, moving, label_names or {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as partial:
            draft = Path(partial) / path.name
            draft.write_text(page, encoding="utf-8")
            draft.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"The report cannot be written to {path}: {reason}.") from error
    return path


def _page(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image, label_names: Mapping[int, str]) -> str:
    pictures = result_pictures(result, fixed, moving)
    behind = next(_source(picture) for picture in pictures if picture.name == "fixed")
    body = [
        "<h1>Registration report</h1>",
        _facts(result.metrics, fixed, moving),
        _quality(result.metrics),
        _deformation(result.metrics),
        "<h2>Pictures</h2>",
        "<p>Three planes through the centre of the fixed image’s object, seen as radiologists do: R is the "
        "patient’s right, L left, A front, P back, S head, I feet.</p>",
        *map(_figure, pictures),
        _structures(result.metrics.get("labels"), label_names),
        "<p>A tool for research: a registration is to be checked by someone who knows the anatomy.</p>",
    ]
    style = f"{_STYLE}:root {{ --fixed: url({behind}); }}"
    head = (
        '<meta charset="utf-8" /><meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>Registration report</title><style>{style}</style>"
    )
    content = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _source(picture: Picture) -> str:
    return f"data:image/png;base64,{b64encode(picture.png).decode('ascii')}"


def _figure(picture: Picture) -> str:
    image = f'<img alt="{escape(picture.title)}" src="{_source(picture)}" />'
    if picture.over_fixed:
        image = f'<div class="flick" tabindex="0">{image}</div>'
    return (
        f'<figure id="{picture.name}"><h3>{escape(picture.title)}</h3>'
        f"<figcaption>{escape(picture.caption)}</figcaption>{image}</figure>"
    )


# What was done


def _facts(metrics: Mapping[str, Any], fixed: sitk.Image, moving: sitk.Image) -> str:
    facts = {
        "Program": f"DeepRegAttention {metrics['version']}" if "version" in metrics else "",
        "Model": _model_words(metrics),
        "Method": _method_words(metrics),
        "Computed": _computation_words(metrics),
        "Time": _time_words(metrics.get("seconds") or {}),
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
    words = [_ALIGNMENTS[options["prealign"]]]
    if metrics.get("model"):
        words.append("network")
    steps = metrics.get("refinement_steps")
    if steps:
        weight = metrics.get("regularization", options["regularization"])
        words.append(f"{steps} steps of refinement by {_SIMILARITIES[options['similarity']]}, smoothness {weight:g}")
        if options["landmark_weight"]:
            words.append(f"landmarks with weight {options['landmark_weight']:g}")
    text = ", then ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _computation_words(metrics: Mapping[str, Any]) -> str:
    grid = metrics.get("working_grid")
    if not grid:
        return ""
    size = " × ".join(map(str, grid["size"]))
    where = f"On the {str(metrics['device']).upper()} in {metrics['precision']}"
    return f"{where}, on a grid of {size} voxels of {grid['spacing_mm']:.3g} mm."


def _time_words(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return f"{sum(seconds.values()):.1f} s ({stages})"


def _image_words(image: sitk.Image) -> str:
    grid = Grid.of(image)
    size, spacing = " × ".join(map(str, grid.size)), " × ".join(f"{s:.3g}" for s in grid.spacing)
    return f"{size} voxels of {spacing} mm, {image.GetPixelIDTypeAsString()}"


# How well it went


def _quality(metrics: Mapping[str, Any]) -> str:
    rows = [*_similarity_rows(metrics.get("similarity")), *_landmark_rows(metrics.get("landmarks"))]
    rows += _overlap_rows(metrics.get("labels"))
    if not rows:
        return ""
    head = ("Measure", "Before", "Linear", "After", "Change")
    note = f"{_UP} more is better, {_DOWN} less is better; the change is from before to after."
    return f"<h2>How well the images match</h2>{_table(head, rows)}<p>{note}</p>"


def _similarity_rows(similarity: Optional[Mapping[str, Any]]) -> List[Row]:
    if not similarity:
        return []
    stages = [similarity.get(stage) or {} for stage in ("before", "linear", "after")]
    return [
        _measure(f"{name} {direction}", direction, [stage.get(key) for stage in stages], decimals)
        for key, name, direction, decimals in _MEASURES
    ]


def _landmark_rows(landmarks: Optional[Mapping[str, Any]]) -> List[Row]:
    if not landmarks:
        return []
    return [
        _measure(
            f"Landmarks, {word} distance in mm {_DOWN}",
            _DOWN,
            [landmarks["before_mm"][word], None, landmarks["after_mm"][word]],
            2,
        )
        for word in ("mean", "max")
    ]


def _overlap_rows(labels: Optional[Mapping[str, Any]]) -> List[Row]:
    if not labels:
        return []
    return [
        _measure(f"{name} {way}", way, [labels["before"][key], None, labels["after"][key]], decimals)
        for key, name, way, decimals in (
            ("mean_dice", "Structures, mean overlap (Dice)", _UP, 3),
            ("mean_hd95_mm", "Structures, mean surface distance in mm (HD95)", _DOWN, 2),
        )
    ]


def _measure(name: str, direction: str, values: Sequence[Optional[float]], decimals: int) -> Row:
    """A row: the name, one cell for each stage, and the change from the first to the last in words and colour."""
    cells = [_number(value, decimals) for value in values]
    change = _float(values[-1]) - _float(values[0])
    if not math.isfinite(change):
        return (name, *cells, "")
    better = change > 0 if direction == _UP else change < 0
    kind, word = ("good", "better") if better else ("bad", "worse")
    mark = f'<span class="{kind}">{"−" if change < 0 else "+"}{abs(change):.{decimals}f} {word}</span>'
    return (name, *cells, mark if change else "the same")


def _deformation(metrics: Mapping[str, Any]) -> str:
    rows = [*_jacobian_rows(metrics.get("jacobian")), *_consistency_rows(metrics.get("inverse_consistency_mm"))]
    force = metrics.get("driving_force")
    if force:
        rows += [
            ("Driving force and deformation, cosine", _number(force["cosine"], 3), "1: motion follows the force"),
            (
                "Driving force and deformation, correlation of lengths",
                _number(force["magnitude"], 3),
                "1: strong where much moves",
            ),
        ]
    if not rows:
        return ""
    return f"<h2>The deformation</h2>{_table(('Measure', 'Value', 'Good is'), rows)}"


def _jacobian_rows(jacobian: Optional[Mapping[str, Any]]) -> List[Row]:
    if not jacobian:
        return []
    number = {key: _number(value, 3) for key, value in jacobian.items()}
    percent, volume = jacobian["fold_percent"], jacobian["fold_volume_cm3"]
    folds = f"{percent:.3g} % ({volume:.3g} cm³)"
    return [
        ("Jacobian, mean ± standard deviation", f"{number['mean']} ± {number['std']}", "near 1, small spread"),
        ("Jacobian, least to largest", f"{number['min']} to {number['max']}", "above 0"),
        ("Folds", f'<span class="{"bad" if percent else "good"}">{folds}</span>', "none"),
    ]


def _consistency_rows(consistency: Optional[Mapping[str, Any]]) -> List[Row]:
    if not consistency:
        return []
    value = f"{_number(consistency['mean'], 3)} mean, {_number(consistency['max'], 3)} largest"
    return [("There and back (inverse consistency) in mm", value, "near 0")]


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Cells are HTML; the first of each row names it, the others are set as numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        rest = "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in cells[1:])
        return f"<tr><th>{cells[0]}</th>{rest}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _float(value: Optional[float]) -> float:
    """NaN for what could not be measured, which a file of metrics has as null."""
    return math.nan if value is None else float(value)


def _number(value: Optional[float], decimals: int) -> str:
    number = _float(value)
    return f"{number:.{decimals}f}" if math.isfinite(number) else "–"


# Structures


def _structures(labels: Optional[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """Overlap of every structure before and after, the worst first."""
    if not labels:
        return ""
    before, after = (_by_label(labels[stage]["dice"]) for stage in ("before", "after"))
    order = sorted(after, key=lambda n: (after[n] if math.isfinite(after[n]) else -1.0, n))
    bars = "".join(_bar(names.get(n, f"Structure {n}"), before.get(n, math.nan), after[n]) for n in order)
    return (
        f"<h2>Overlap of {len(order)} structures</h2>"
        "<p>Dice, from 0 to 1: the bar after the registration, the mark before it; the worst come first.</p>"
        f'<div class="scroll"><div class="bars">{bars}</div></div>'
    )


def _by_label(values: Mapping[Any, Optional[float]]) -> Dict[int, float]:
    """With whole numbers for keys, which a file of metrics has as text."""
    return {int(label): _float(value) for label, value in values.items()}


def _bar(name: str, before: float, after: float) -> str:
    shapes = '<rect width="100" height="10" fill="var(--line)" rx="1" />'
    if math.isfinite(after):
        shapes += f'<rect width="{100 * after:.1f}" height="10" fill="var(--accent)" rx="1" />'
    if math.isfinite(before):
        shapes += f'<rect x="{99 * before:.1f}" width="1" height="10" fill="var(--ink)" />'
    text = f"{_number(before, 2)} → {_number(after, 2)}"
    label = escape(name)
    return (
        f'<div><span class="name" title="{label}">{label}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{label} {text}">{shapes}</svg>'
        f'<span class="value">{text}</span></div>'
    )
