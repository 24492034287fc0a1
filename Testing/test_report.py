"""The report: one complete page, and pictures that show the right side of the right thing."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import OutputError
from DeepRegAttentionLib.engine.evaluation import evaluate_labels, evaluate_landmarks
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.landmarks import Landmarks
from DeepRegAttentionLib.engine.maps import jacobian_map
from DeepRegAttentionLib.engine.metrics import jacobian_statistics, similarity
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.result import MAP_NAMES, RegistrationResult
from DeepRegAttentionLib.report.drawings import _draw_arrows, _grid_lines, _inside, jacobian_pictures
from DeepRegAttentionLib.report.facts import facts_table
from DeepRegAttentionLib.report.page import write_report
from DeepRegAttentionLib.report.painting import Look, _frame, paint
from DeepRegAttentionLib.report.pictures import _outlines, result_pictures
from DeepRegAttentionLib.report.sections import PLANES, Section
from DeepRegAttentionLib.report.tables import measure_tables, structure_bars
from DeepRegAttentionLib.report.views import Views, split_transform
from DeepRegAttentionLib.terms.maps import MAPS
from helpers.images import blob_image, rotation
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

CENTRE = np.array((31.0, -57.0, 112.0))
PUSH = 6.0


def physical_points(image: sitk.Image) -> np.ndarray:
    grid = Grid.of(image)
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    return np.stack([i, j, k], axis=-1) @ grid.voxel_to_mm.T + grid.origin


def scalar_image(values: np.ndarray, like: sitk.Image) -> sitk.Image:
    return Grid.of(like).place(sitk.GetImageFromArray(values.astype(np.float32)))


def push_left(fixed: sitk.Image, mm: float = PUSH) -> sitk.DisplacementFieldTransform:
    """Towards the patient's left (+x), most at the centre of the object."""
    bump = np.exp(-(((physical_points(fixed) - CENTRE) / 12.0) ** 2).sum(-1))
    vectors = bump[..., None] * (mm, 0.0, 0.0)
    field = Grid.of(fixed).place(sitk.GetImageFromArray(vectors, isVector=True))
    return sitk.DisplacementFieldTransform(field)


def affine(shift: tuple[float, float, float] = (40.0, -25.0, 10.0)) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(rotation((5.0, 3.0, -7.0)).flatten().tolist())
    transform.SetCenter(CENTRE.tolist())
    transform.SetTranslation(shift)
    return transform


@pytest.fixture
def fixed() -> sitk.Image:
    return blob_image()


@pytest.fixture
def moving() -> sitk.Image:
    return blob_image((40, 38, 30), (1.3, 1.4, 2.1), (-8.0, 15.0, 4.0), seed=4)


def make_result(fixed: sitk.Image, moving: sitk.Image, mm: float = PUSH) -> RegistrationResult:
    field = push_left(fixed, mm)
    transform = sitk.CompositeTransform([affine((2.0, -1.0, 1.5)), field])
    warped = warp_image(moving, fixed, transform)
    back = sitk.InvertDisplacementField(field.GetDisplacementField(), maximumNumberOfIterations=50)
    inverse = sitk.CompositeTransform([sitk.DisplacementFieldTransform(back), affine((2.0, -1.0, 1.5)).GetInverse()])
    result = RegistrationResult(warped, transform, inverse)
    result.maps["jacobian"] = jacobian_map(field, Grid.of(fixed))
    result.metrics["jacobian"] = jacobian_statistics(result.maps["jacobian"])
    before = warp_image(moving, fixed, sitk.Transform(3, sitk.sitkIdentity))
    stages = {"before": before, "linear": before, "after": warped}
    result.metrics["similarity"] = {name: similarity(fixed, image) for name, image in stages.items()}
    return result


def with_every_map(result: RegistrationResult, fixed: sitk.Image) -> RegistrationResult:
    rng = np.random.default_rng(5)
    shape = Grid.of(fixed).shape
    for name in ("expected_error", "error_bound", "correction", "attention", "structures", "regularization"):
        result.maps[name] = scalar_image(rng.uniform(0, 1, shape), fixed)
    vectors = rng.normal(size=(*shape, 3)).astype(np.float32)
    result.maps["driving_force"] = Grid.of(fixed).place(sitk.GetImageFromArray(vectors, isVector=True))
    result.maps["driving_force_magnitude"] = sitk.VectorMagnitude(result.maps["driving_force"])
    result.maps["difference_before"], result.maps["difference_after"] = fixed * 0.5, fixed - result.warped
    return result


def label_map(image: sitk.Image, count: int) -> sitk.Image:
    """Slabs from the patient's right to left, numbered 1 to count, within the object."""
    x = physical_points(image)[..., 0] - CENTRE[0]
    slabs = 1 + np.clip((x + 20) / 40 * count, 0, count - 1).astype(np.int16)
    values = np.where(sitk.GetArrayFromImage(image) > 0.2, slabs, 0)
    return Grid.of(image).place(sitk.GetImageFromArray(values.astype(np.int16)))


def page_of(path: Path) -> ElementTree.Element:
    """The page, parsed strictly: a tag that is not closed, or text that is not escaped, fails."""
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def embedded(page: ElementTree.Element) -> dict[str, Image.Image]:
    pictures = {}
    for figure in page.iter("figure"):
        source = next(figure.iter("img")).attrib["src"]
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/png"
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
        pictures[figure.attrib["id"]] = image.convert("RGB")
    return pictures


def text_of(page: ElementTree.Element) -> str:
    return re.sub(r"\s+", " ", " ".join(page.find("body").itertext()))


# The page


@pytest.mark.slow
def test_everything_that_a_result_has_is_on_the_page(tmp_path, fixed, moving):
    result = with_every_map(make_result(fixed, moving), fixed)
    labels = label_map(moving, 4)
    evaluate_labels(result, moving, labels, label_map(fixed, 4))
    evaluate_landmarks(result, Landmarks(CENTRE[None]), Landmarks(CENTRE[None] + 1))
    result.metrics["driving_force"] = {"cosine": 0.6543, "magnitude": 0.7891}
    result.metrics["inverse_consistency_mm"] = {"mean": 0.0246, "max": 0.1689}
    path = write_report(result, fixed, moving, tmp_path / "report.html", {2: "Thalamus <left> & “right”"})
    page = page_of(path)
    pictures, text = embedded(page), text_of(page)
    assert {"fixed", "linear", "warped", "checkerboard", "grid", "histogram", "labels"} < set(pictures)
    assert set(MAP_NAMES) - {"driving_force_magnitude"} < set(pictures)
    for entry in MAPS.values():
        assert entry.key == "driving_force_magnitude" or entry.meaning in text
    for expected in ("0.654", "0.789", "0.025", "0.169", "Thalamus <left> & “right”", "Structure 3"):
        assert expected in text
    assert len({image.size for name, image in pictures.items() if name != "histogram"}) == 1
    assert path.stat().st_size < 5_000_000


def test_what_a_result_lacks_is_left_out(tmp_path, fixed, moving):
    full = make_result(fixed, moving)
    bare = RegistrationResult(full.warped, full.transform, None)
    page = page_of(write_report(bare, fixed, moving, tmp_path / "report.html"))
    assert set(embedded(page)) == {"fixed", "linear", "warped", "checkerboard"}
    text = text_of(page)
    for word in ("Jacobian", "Dice", "TRE", "Driving force", "NCC", "nan", "None"):
        assert word not in text


def test_what_made_the_result_is_told_in_words(fixed, moving):
    options = {"prealign": "rigid", "refine": 25, "similarity": "mind", "regularization": None, "landmark_weight": 0.5}
    metrics = {
        "version": "9.8.7",
        "options": options,
        "model": {"name": "brain-t1", "network": "adregnet", "sha256": "ab" * 32},
        "model_choice": "It suits MR T1 of the brain.",
        "regularization": 0.25,
        "refinement_steps": 25,
        "working_grid": {"size": [88, 96, 80], "spacing_mm": 2.436},
        "device": "cpu",
        "precision": "bfloat16",
    }
    text = text_of(part(facts_table(metrics, fixed, moving)))
    assert "DeepRegAttention 9.8.7" in text
    assert "brain-t1 (adregnet, SHA-256 abababababab…). It suits MR T1 of the brain." in text
    assert "Rigid alignment, then network, then 25 steps of refinement by MIND self-similarity, smoothness 0.25" in text
    assert "landmarks with weight 0.5" in text
    for share, words in (
        (0.5, "MIND self-similarity and 52 recognised structures (50%)"),
        (1.0, "52 recognised structures"),
    ):
        aligned = {**metrics, "structures": {"recognised": 52, "share": share}}
        text_then = text_of(part(facts_table(aligned, fixed, moving)))
        assert f"25 steps of refinement by {words}, smoothness 0.25" in text_then
    assert "88 × 96 × 80 voxels of 2.44 mm" in text
    assert "44 × 36 × 28 voxels of 1.1 × 1.7 × 2.6 mm" in text


def part(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<html><body>{html}</body></html>")


@pytest.mark.parametrize(
    ("after", "words", "colour"), [(0.5, "−0.4000 worse", "bad"), (0.95, "+0.0500 better", "good")]
)
def test_the_direction_of_a_change_is_judged(after, words, colour):
    same = {"mse": 0.1, "ssim": 0.5, "nmi": 1.1}
    stages = {"before": {"ncc": 0.9, **same}, "after": {**same, "ncc": after, "mse": 0.04}}
    page = part(measure_tables({"similarity": stages}))
    marks = {mark.text: mark.attrib["class"] for mark in page.iter("span")}
    # Less of the mean squared difference is better; where nothing changes nothing is judged.
    assert marks == {words: colour, "−0.06000 better": "good"}


def test_many_structures_with_gaps_are_sorted_worst_first():
    after = {str(n): 0.2 + 0.006 * n for n in range(1, 121)}
    after["7"] = None
    page = part(structure_bars({"before": {"dice": {}}, "after": {"dice": after}}, {120: "Best"}))
    bars = next(div for div in page.iter("div") if div.attrib.get("class") == "bars")
    rows = [(bar[0].text, bar[2].text) for bar in bars]
    assert len(rows) == 120
    assert rows[:2] == [("Structure 7", "– → –"), ("Structure 1", "– → 0.206")]
    assert rows[-1] == ("Best", "– → 0.920")


@pytest.mark.slow
def test_folds_are_drawn_in_their_own_colour_down_to_a_single_voxel(fixed, moving):
    result = make_result(fixed, moving)
    # The arrow of the colour bar is always there.
    plain = yellow_pixels(jacobian_picture(result, fixed, moving))
    values = sitk.GetArrayFromImage(result.maps["jacobian"])
    centre = Views.of(result, fixed, moving).sections[0].point.tolist()
    values[fixed.TransformPhysicalPointToIndex(centre)[::-1]] = -0.5
    result.maps["jacobian"] = scalar_image(values, fixed)
    one = yellow_pixels(jacobian_picture(result, fixed, moving))
    assert one > plain + 20
    values[np.linalg.norm(physical_points(fixed) - CENTRE, axis=-1) < 6] = -0.5
    result.maps["jacobian"] = scalar_image(values, fixed)
    assert yellow_pixels(jacobian_picture(result, fixed, moving)) > one + 2000


@pytest.mark.parametrize("jacobian", [0.01, 0.2, 0.25])
def test_strong_shrinking_is_no_fold(fixed, moving, jacobian):
    result = make_result(fixed, moving)
    plain = yellow_pixels(jacobian_picture(result, fixed, moving))
    values = sitk.GetArrayFromImage(result.maps["jacobian"])
    values[np.linalg.norm(physical_points(fixed) - CENTRE, axis=-1) < 6] = jacobian
    result.maps["jacobian"] = scalar_image(values, fixed)
    assert yellow_pixels(jacobian_picture(result, fixed, moving)) <= plain + 5


def jacobian_picture(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> Image.Image:
    heat = jacobian_pictures(Views.of(result, fixed, moving))[0]
    return Image.open(io.BytesIO(heat.png)).convert("RGB")


def test_folds_are_counted():
    jacobian = {"mean": 1.0, "std": 0.1, "min": -0.5, "max": 2.0, "fold_percent": 0.125, "fold_volume_cm3": 1.75}
    marks = {mark.text: mark.attrib["class"] for mark in part(measure_tables({"jacobian": jacobian})).iter("span")}
    assert marks == {"0.1250": "bad", "1.750": "bad"}
    jacobian["fold_percent"] = jacobian["fold_volume_cm3"] = 0.0
    marks = {mark.text: mark.attrib["class"] for mark in part(measure_tables({"jacobian": jacobian})).iter("span")}
    assert marks == {"0.0000": "good", "0.000": "good"}


def yellow_pixels(image: Image.Image) -> int:
    return int((np.abs(np.asarray(image).astype(int) - (255, 213, 0)).max(axis=-1) < 12).sum())


# Writing


@pytest.mark.slow
def test_an_older_report_is_replaced_by_one_that_stands_alone(tmp_path, fixed, moving):
    path = tmp_path / "new folder" / "report.html"
    path.parent.mkdir()
    path.write_text("old", encoding="utf-8")
    assert write_report(make_result(fixed, moving), fixed, moving, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    assert not list(page_of(path).iter("script"))
    assert not re.findall(r"https?://|@import|<link", text)
    assert all(target.startswith("data:image/png;base64,") for target in re.findall(r"url\((.*?)\)", text))
    assert "prefers-color-scheme: dark" in text


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_named(tmp_path, fixed, moving):
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match=r"The report cannot be written to .*file"):
        write_report(make_result(fixed, moving), fixed, moving, blocked / "report.html")


@pytest.mark.slow
def test_a_folder_in_the_way_stays_and_nothing_half_written_does(tmp_path, fixed, moving):
    folder = tmp_path / "report.html"
    folder.mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        write_report(make_result(fixed, moving), fixed, moving, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def coarser(image: sitk.Image) -> sitk.Image:
    """The same on a grid of twice the spacing, turned, that covers more than the image."""
    grid, turn = Grid.of(image), rotation((5.0, -8.0, 10.0))
    direction = turn @ np.array(grid.direction).reshape(3, 3)
    spacing = 2 * np.array(grid.spacing)
    size = [int(0.7 * n) for n in grid.size]
    origin = grid.centre - direction @ (spacing * (np.array(size) - 1) / 2)
    target = size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, origin.tolist(), spacing.tolist()
    return sitk.Resample(image, *target, direction.flatten().tolist(), 1.0, image.GetPixelID())


@pytest.mark.slow
def test_maps_on_a_coarser_grid_are_drawn_where_they_lie(fixed, moving):
    result = with_every_map(make_result(fixed, moving), fixed)
    for name in set(result.maps) - {"difference_before", "difference_after"}:
        result.maps[name] = coarser(result.maps[name])
    names = {picture.name for picture in result_pictures(result, fixed, moving)}
    assert set(MAP_NAMES) - {"driving_force_magnitude"} < names
    views = Views.of(result, fixed, moving)
    for section in views.sections:
        there = section.sample(result.maps["jacobian"]), section.sample(make_result(fixed, moving).maps["jacobian"])
        difference = np.abs(there[0] - there[1])
        # The change of volume is smooth: half the grid shows it as well.
        assert np.isfinite(difference).sum() > 5000
        assert np.nanmax(difference) < 0.1


def test_the_histogram_counts_where_the_fixed_image_is_on_the_maps_own_grid(fixed):
    far = np.linalg.norm(physical_points(fixed) - CENTRE, axis=-1)
    fixed, middle = scalar_image(np.float32(far < 20), fixed), scalar_image(far, fixed)
    for distance in (middle, coarser(middle)):
        inside = _inside(distance, fixed)
        assert 0 < inside.min() < 6
        assert 18 < inside.max() < 24 < sitk.GetArrayViewFromImage(distance).max()


def test_arrows_of_the_force_point_along_the_motion(fixed):
    """As on the screen: where the moving image is pulled to, against the stored vectors."""
    vectors = np.tile(np.float32([4.0, 0.0, -1.0]), (*Grid.of(fixed).shape, 1))
    force = Grid.of(fixed).place(sitk.GetImageFromArray(vectors, isVector=True))
    section = Views.of(make_result(fixed, fixed), fixed, fixed).sections[1]
    ax = Figure().add_subplot()
    _draw_arrows(ax, section, force, 5.0, 1.0, 0.1)
    arrows = ax.collections[0]
    assert len(arrows.U) > 10
    np.testing.assert_allclose(arrows.U, -4.0, atol=1e-4)
    np.testing.assert_allclose(arrows.V, 1.0, atol=1e-4)


# Geometry


def test_sections_show_physical_points_upright_on_oblique_images(fixed):
    """A ramp along each LPS axis comes out as the coordinates of the section, in mm, whatever the grid."""
    points = physical_points(fixed)
    # Beyond the outermost voxel centres SimpleITK repeats them for half a voxel: the ramp ends there.
    core = np.zeros(Grid.of(fixed).shape)
    core[1:-1, 1:-1, 1:-1] = 1
    inner = scalar_image(core, fixed)
    for section in Views.of(make_result(fixed, fixed), fixed, fixed).sections:
        h, v = section.coordinates(section.pixel)
        for axis, expected in ((section.plane.horizontal, h), (section.plane.vertical, v)):
            seen = section.sample(scalar_image(points[..., axis], fixed))
            inside = section.sample(inner) > 0.999
            assert 0.2 < inside.mean() < 1
            np.testing.assert_allclose(seen[inside], expected[inside], atol=1e-3)
        across = section.sample(scalar_image(points[..., section.plane.normal], fixed))
        assert np.abs(across - section.point[section.plane.normal])[section.sample(inner) > 0.999].max() < 1e-3
        assert np.isnan(across).any()


def test_the_planes_meet_in_the_object(fixed):
    views = Views.of(make_result(fixed, fixed), fixed, fixed)
    for section in views.sections:
        assert np.linalg.norm(section.point - CENTRE) < 6
        assert (section.low < CENTRE).all()
        assert (section.high > CENTRE).all()


def bright_at(offset: tuple[float, float, float]) -> sitk.Image:
    """A dim ball with a small bright one at an LPS offset in mm from its centre, on an oblique grid."""
    image = blob_image()
    points = physical_points(image) - CENTRE
    ball = 0.3 * (np.linalg.norm(points, axis=-1) < 20)
    return scalar_image(ball + 0.7 * (np.linalg.norm(points - offset, axis=-1) < 4.5), image)


@pytest.mark.parametrize(
    ("offset", "panel", "direction"),
    [
        ((12.0, 0.0, 0.0), 0, (1, 0)),  # the patient's left is on the right of the axial picture
        ((0.0, 12.0, 0.0), 0, (0, 1)),  # posterior is below
        ((12.0, 0.0, 0.0), 1, (1, 0)),
        ((0.0, 0.0, 12.0), 1, (0, -1)),  # superior is above
        ((0.0, -12.0, 0.0), 2, (-1, 0)),  # anterior is on the left of the sagittal picture
        ((0.0, 0.0, -12.0), 2, (0, 1)),
    ],
)
def test_the_picture_is_radiological(offset, panel, direction):
    image = bright_at(offset)
    views = Views.of(make_result(image, image, 0.0), image, image)
    png = paint(views.sections, views.sample(image), Look(colormaps["gray"], 0.0, 1.0))
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)
    left, right, top, bottom, mm = panel_of(views, panel, grey.shape)
    part = grey[top:bottom, left:right]
    v, h = np.argwhere(ndi_open(part > 200)).mean(axis=0)
    section = views.sections[panel]
    middle = np.array([(left + right) / 2 - left, (top + bottom) / 2 - top])
    shift = np.array([h, v]) - middle
    # Where the centre of the ball lies in the panel, then the bright spot relative to it, in mm.
    plane = section.plane
    centre = (CENTRE - (section.low + section.high) / 2)[[plane.horizontal, plane.vertical]]
    centre[1] *= 1 if plane.downwards else -1
    np.testing.assert_allclose(shift * mm - centre, 12.0 * np.array(direction), atol=2.5)


def panel_of(views: Views, number: int, shape: tuple[int, int]) -> tuple[int, int, int, int, float]:
    """Pixels of a panel in the picture, and mm a pixel there."""
    _, axes = _frame(views.sections)
    box = axes[number].get_position()
    rows, columns = shape
    left, right = round(box.x0 * columns), round(box.x1 * columns)
    top, bottom = round((1 - box.y1) * rows), round((1 - box.y0) * rows)
    return left, right, top, bottom, views.sections[number].size[0] / (right - left)


def ndi_open(mask: np.ndarray) -> np.ndarray:
    """Without what is thinner than a few pixels: the letters."""
    opened = sitk.BinaryMorphologicalOpening(sitk.GetImageFromArray(mask.astype(np.uint8)), (4, 4))
    return sitk.GetArrayFromImage(opened) > 0


def test_panels_keep_the_proportions_of_the_body(fixed):
    views = Views.of(make_result(fixed, fixed), fixed, fixed)
    figure, axes = _frame(views.sections)
    inches = figure.get_size_inches()
    scales = []
    for ax, section in zip(axes, views.sections):
        box = ax.get_position()
        scales += [section.size[0] / (box.width * inches[0]), section.size[1] / (box.height * inches[1])]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-9)


# The deformation


def test_the_transform_comes_apart_into_linear_and_deformable(fixed):
    linear, field = affine(), push_left(fixed)
    chain = sitk.CompositeTransform([linear, field])
    parts = split_transform(sitk.Transform(chain))
    for offset in np.random.default_rng(1).uniform(-10, 10, (5, 3)):
        point = (CENTRE + offset).tolist()
        np.testing.assert_allclose(parts[1].TransformPoint(point), field.TransformPoint(point))
        np.testing.assert_allclose(parts[0].TransformPoint(parts[1].TransformPoint(point)), chain.TransformPoint(point))


def test_the_grid_bends_to_where_fixed_points_land(fixed, moving):
    """A push to the left by 6 mm bends vertical lines by 6 mm to the left, and no other lines or planes."""
    views = Views.of(make_result(fixed, moving), fixed, moving)
    for section in views.sections:
        lines, lengths = grid_lines(section, views.deformation)
        flat, _ = grid_lines(section, sitk.Transform(3, sitk.sitkIdentity))
        moved = lines - flat
        assert lengths.max() == pytest.approx(PUSH, rel=0.1)
        if section.plane.horizontal == 0:
            assert moved[..., 0].max() == pytest.approx(PUSH, rel=0.1)
            where = flat[moved[..., 0].argmax(axis=0)[0], 0]
            np.testing.assert_allclose(where, CENTRE[[0, section.plane.vertical]], atol=4)
            assert moved[..., 0].min() > -1e-3
        else:
            # Seen along the push nothing bends; only the colour tells.
            assert np.abs(moved).max() < 1e-3
        assert np.abs(moved[..., 1]).max() < 1e-3


def grid_lines(section: Section, transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    lines, lengths = _grid_lines(section, section.displacement(transform, 1.0), 1.0, 6)
    return np.array(lines), lengths


def test_the_grid_is_drawn_where_the_motion_takes_it(fixed, moving):
    """As on the screen: from the aligned moving image to the fixed one, the other way round than the transform."""
    views = Views.of(make_result(fixed, moving), fixed, moving)
    assert views.longest == pytest.approx(PUSH, rel=0.05)
    for offset in np.random.default_rng(1).uniform(-6, 6, (5, 3)):
        point = CENTRE + offset
        aligned = views.deformation.TransformPoint(point.tolist())
        assert aligned[0] > point[0] + 1
        np.testing.assert_allclose(views.motion.TransformPoint(aligned), point, atol=0.4)


@pytest.mark.slow
def test_the_picture_of_the_grid_follows_the_deformation_alone(fixed, moving):
    still, pushed = (
        {p.name: p.png for p in result_pictures(make_result(fixed, moving, mm), fixed, moving)} for mm in (0.0, PUSH)
    )
    assert still["grid"] != pushed["grid"]
    assert still["warped"] != pushed["warped"]
    assert still["linear"] == pushed["linear"]
    assert still["fixed"] == pushed["fixed"]


def test_the_linear_picture_is_the_moving_image_through_the_linear_part(fixed, moving):
    views = Views.of(make_result(fixed, moving), fixed, moving)
    expected = warp_image(moving, fixed, affine((2.0, -1.0, 1.5)))
    for section in views.sections:
        seen, there = section.sample(moving, transform=views.linear), section.sample(expected)
        both = np.isfinite(seen) & np.isfinite(there) & (seen > 0.2)
        assert both.sum() > 500
        assert np.corrcoef(seen[both], there[both])[0, 1] > 0.98


def test_outlines_run_along_the_rim_of_each_structure():
    labels = np.zeros((7, 8), int)
    labels[2:6, 1:4], labels[2:6, 4:7] = 3, 9
    rim = _outlines(labels)
    assert rim[2:6, [1, 3, 4, 6]].all()
    assert not rim[3:5, [2, 5]].any()
    assert not rim[labels == 0].any()


def test_there_are_three_planes_across_three_axes():
    assert sorted(plane.normal for plane in PLANES) == [0, 1, 2]
