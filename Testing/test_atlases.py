"""Label fusion as a study: from images and atlases to labels, kept as long as they would come out the same."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cli.fuse import find_targets
from DeepRegAttentionLib.cohort.atlases import LabelFusion, best_single, fuse_outcomes, require_alike, with_labels
from DeepRegAttentionLib.cohort.fusion import FusionOptions, carried
from DeepRegAttentionLib.cohort.pairs import Pair, Settings
from DeepRegAttentionLib.cohort.products import owned
from DeepRegAttentionLib.cohort.work import DONE, Outcome
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.errors import ImageError, LabelError, OptionError, OutputError, RegistrationWarning
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.metrics import require_same_grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.result import write_transform
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.cohort import GRIDS, linear, waves
from helpers.cohort_work import full, workers_here
from helpers.images import blob_image
from typer.testing import CliRunner

FAST = ["--model", "none", "--prealign", "none", "--refine", "1", "--spacing", "6"]


def labels_of(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(sitk.BinaryThreshold(image, 0.25, 0.6, 1, 0) + 2 * (image > 0.6), sitk.sitkUInt8)


def written(folder: Path, name: str, **grid: object) -> ImageFiles:
    """An image and its label map in a folder that ``find_cases`` reads."""
    image = blob_image(**grid)
    for kind, one in (("images", image), ("labels", labels_of(image))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(one, str(folder / kind / f"{name}.nii.gz"))
    return ImageFiles(name, folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The command


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three atlases, and two targets, one of which is an atlas as well."""
    folder = tmp_path_factory.mktemp("fuse")
    for number, grid in enumerate(GRIDS[:3]):
        written(folder / "atlases", f"a{number}", **grid, shift=(float(number), 0.0, -1.0))
    written(folder / "targets", "t", **GRIDS[3])
    return folder


def command(around: Path, *more: str) -> str:
    targets = [str(around / "targets"), str(around / "atlases" / "images" / "a0.nii.gz")]
    arguments = ["fuse", *targets, "--atlases", str(around / "atlases"), "-o", str(around / "study")]
    with workers_here() as scheduler:
        result = CliRunner().invoke(app, [*arguments, "--scheduler", scheduler, *FAST, *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def stamps(around: Path) -> dict[str, int]:
    """When each registration was made."""
    folders = (around / "study" / "pairs").iterdir()
    return {folder.name: (folder / "metrics.json").stat().st_mtime_ns for folder in folders}


@pytest.mark.slow
def test_targets_get_labels_and_nothing_is_done_twice(around):
    said = command(around)
    assert "2 now, 0 kept" in said
    assert "on 1 targets; the best atlas alone, a" in said
    known, unknown = rows_of(around / "study" / "fusion.csv")
    assert (known["name"], known["atlases"], unknown["name"], unknown["atlases"]) == ("t", "3", "a0", "2")
    assert float(known["dice"]) >= float(known["single_dice_mean"])
    assert unknown["dice"] == ""
    for name, target in (
        ("t", around / "targets" / "images" / "t.nii.gz"),
        ("a0", around / "atlases/images/a0.nii.gz"),
    ):
        labels = sitk.ReadImage(str(around / "study" / "fused" / name / "labels.nii.gz"))
        confidence = sitk.GetArrayFromImage(
            sitk.ReadImage(str(around / "study" / "fused" / name / "confidence.nii.gz"))
        )
        require_same_grid(labels, sitk.ReadImage(str(target)))
        assert set(np.unique(sitk.GetArrayViewFromImage(labels))) == {0, 1, 2}
        assert 0 < confidence.min() < confidence.max() == 1
    assert {row["group"] for row in rows_of(around / "study" / "cohort.csv")} == {"t", "a0"}
    made = json.loads((around / "study" / "fused" / "t" / "made_of.json").read_text(encoding="utf-8"))
    assert made["atlases"] == ["a0", "a1", "a2"]
    # Again, and with other votes.
    assert "0 now, 2 kept" in command(around)
    before = stamps(around)
    assert "2 now, 0 kept" in command(around, "--method", "majority")
    assert stamps(around) == before
    assert {path.name for path in (around / "study").iterdir()} == {
        "cohort.csv",
        "index.html",
        "pairs",
        "fused",
        "fusion.csv",
    }


def test_what_is_missing_is_said_in_one_line(tmp_path):
    atlas = written(tmp_path / "atlases", "a")
    (tmp_path / "atlases/labels/a.nii.gz").unlink()
    arguments = ["fuse", str(atlas.image), "--atlases", str(tmp_path / "atlases"), "-o", str(tmp_path / "study")]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "None of the 1 atlases has a label map" in result.stderr
    result = CliRunner().invoke(app, ["fuse", "nowhere.nii.gz", *arguments[2:]])
    assert (result.exit_code, result.stderr) == (3, "error: nowhere.nii.gz does not exist.\n")
    assert not (tmp_path / "study").exists()
    with pytest.raises(OptionError, match="--fixed-labels is for one image"):
        find_targets([atlas.image, atlas.image], None, atlas.image)


def test_what_is_made_is_kept_until_it_would_differ(tmp_path):
    source = tmp_path / "source"
    source.write_text("one", encoding="utf-8")

    def got(content: str = "one", **how: object) -> bool:
        with owned(tmp_path / "study", "things") as products:
            folder, made = products.get(
                "a", {"thing": str(source)}, how, lambda f: (f / "b").write_text(content, encoding="utf-8")
            )
        assert (folder / "b").read_text(encoding="utf-8") == content
        return made

    assert got()
    assert not got()
    source.touch()
    assert not got()
    source.write_text("two", encoding="utf-8")
    assert got("two")
    assert got("three", turns=(1, 2))
    assert not got("three", turns=(1, 2))
    (tmp_path / "study" / "things" / "a" / "b").unlink()
    assert got("three", turns=(1, 2))
    refused = pytest.raises(OutputError, match=r"a cannot be written: no space left on device\.")
    with refused, owned(tmp_path / "study", "things") as products:
        products.get("a", {}, {}, full)
    assert not got("three", turns=(1, 2))
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["things"]


# Where labels lie


def test_fused_labels_lie_where_simpleitk_takes_them(tmp_path):
    """One atlas, oblique, anisotropic and off-centre, through an affine and a field, onto another such grid."""
    target, atlas = blob_image(**GRIDS[1]), blob_image(**GRIDS[2])
    through = sitk.CompositeTransform([linear((6.0, -4.0, 9.0), 1.04, (3.0, -2.0, 4.0)), waves(3.0, 2)])
    drawn = labels_of(atlas)
    sitk.WriteImage(drawn, str(tmp_path / "labels.nii.gz"))
    write_transform(through, tmp_path / "transform.h5")
    for name, image in (("warped", atlas), ("warped_labels", drawn)):
        nearest = sitk.sitkNearestNeighbor if image is drawn else sitk.sitkLinear
        sitk.WriteImage(sitk.Resample(image, target, through, nearest), str(tmp_path / f"{name}.nii.gz"))
    outcome = Outcome(Pair("p", Inputs(labels=str(tmp_path / "labels.nii.gz"))), DONE, tmp_path)
    found = fuse_outcomes(target, [outcome])
    assert Grid.of(found.labels) == Grid.of(target)
    fused = sitk.GetArrayFromImage(found.labels)
    # Where the linearly interpolated structures leave no doubt, they are what the parts of a voxel say, too.
    shares = np.stack([_share(drawn == label, target, through) for label in (0, 1, 2)])
    sure = shares.max(axis=0) > 0.8
    assert sure.mean() > 0.6
    assert (fused == shares.argmax(axis=0))[sure].mean() > 0.998


def _share(structure: sitk.Image, target: sitk.Image, through: sitk.Transform) -> np.ndarray:
    return sitk.GetArrayFromImage(
        sitk.Resample(sitk.Cast(structure, sitk.sitkFloat32), target, through, sitk.sitkLinear)
    )


def test_the_eight_parts_of_a_voxel_are_seen_where_they_lie():
    target, drawn = blob_image(**GRIDS[1]), labels_of(blob_image(**GRIDS[2]))
    way = linear((6.0, -4.0, 9.0), 1.04, (3.0, -2.0, 4.0))
    seen = carried(drawn, target, way)
    assert len(seen) == 8
    finer = sitk.Expand(target, (2, 2, 2), sitk.sitkNearestNeighbor)
    whole = sitk.GetArrayFromImage(sitk.Resample(drawn, finer, way, sitk.sitkNearestNeighbor))
    parts = [whole[k::2, j::2, i::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    for one, part in zip(seen, parts):
        assert Grid.of(one) == Grid.of(target)
        assert (sitk.GetArrayViewFromImage(one) == part).mean() > 0.9999


# Atlases


def test_atlases_without_labels_are_left_out_and_other_labels_are_said(tmp_path):
    whole = written(tmp_path, "whole")
    with pytest.warns(RegistrationWarning, match=r"left out: bare\."):
        assert with_labels([whole, ImageFiles("bare", whole.image)]) == [whole]
    some = ImageFiles("some", whole.image, tmp_path / "some.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(whole.labels)) == 1, str(some.labels))
    with pytest.warns(RegistrationWarning, match="Not every atlas has the labels 2"):
        require_alike([whole, some])
    other = ImageFiles("other", whole.image, tmp_path / "other.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(some.labels)) * 7, str(other.labels))
    with pytest.raises(LabelError, match=r"no label in common: whole has 1, 2, other has 7\."):
        require_alike([whole, other])
    with pytest.raises(ImageError, match=r"label map of the atlas lost cannot be used: .*does not exist"):
        require_alike([ImageFiles("lost", whole.image, tmp_path / "none.nii.gz")])


def test_what_forms_no_pairs_is_refused(tmp_path):
    atlas = written(tmp_path, "a")
    how = Settings(RegistrationOptions(model="none"))
    with pytest.raises(OptionError, match="No atlas is left"):
        LabelFusion([atlas], [atlas], how, tmp_path / "study")
    other = written(tmp_path / "other", "a")
    third = written(tmp_path / "third", "b")
    assert LabelFusion([replace(third, name="../b c")], [atlas], how, tmp_path / "study").targets[0].name == "b_c"
    with pytest.raises(OptionError, match="Two targets are called “a”"):
        LabelFusion([atlas, other], [third], how, tmp_path / "study")


def test_several_maps_of_an_atlas_share_its_vote():
    from DeepRegAttentionLib.cohort.fusion import fuse

    target = blob_image()
    labels = labels_of(target)
    other = labels * 0
    found = fuse(target, [target] * 2, [labels, labels, other, labels], FusionOptions("majority"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels), sitk.GetArrayFromImage(labels))
    confidence = sitk.GetArrayFromImage(found.confidence)[sitk.GetArrayFromImage(labels) != 0]
    np.testing.assert_allclose(confidence, 0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert best_single([])[0] == ""
