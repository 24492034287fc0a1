"""Series: frames in and out of files, each way into one space, and how far the ways around the ring lead back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort.frames import Series, read_series, write_series
from DeepRegAttentionLib.cohort.mean_shape import Parts, inverse, written_out
from DeepRegAttentionLib.cohort.series import Link, SeriesOptions, align_series, chained, neighbours, one_by_one
from DeepRegAttentionLib.cohort.template import Turn
from DeepRegAttentionLib.engine.errors import (
    DimensionError,
    ImageError,
    NonFiniteError,
    OptionError,
    UnreadableFileError,
)
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from helpers.cohort import linear, moved, points, waves
from helpers.images import blob_image

POINTS = points()
# From the points of each frame to those of the next.
STEPS = [
    sitk.CompositeTransform([linear((2.0, -1.0, 1.0), 1 + d / 100, (d, -1.0, d / 2)), waves(1.5, n)])
    for n, d in enumerate((2.0, -3.0, 1.0))
]


def link(transform: sitk.Transform) -> Link:
    return Link(transform, inverse(transform, Parts.of(transform).field_grid()))


def closing() -> sitk.Transform:
    """From the last frame to the first, exactly around the ring."""
    way = sitk.CompositeTransform([link(step).back for step in STEPS])
    frame = np.linalg.inv(Parts.of(STEPS[2]).linear @ Parts.of(STEPS[1]).linear @ Parts.of(STEPS[0]).linear)
    return written_out(way, frame, Parts.of(STEPS[0]).field_grid())


RING = [link(step) for step in (*STEPS, closing())]


# Files


def frames(count: int = 4) -> tuple[sitk.Image, ...]:
    return tuple(blob_image(shift=(n, 0.0, -n)) for n in range(count))


@pytest.mark.parametrize("name", ["beats.nii.gz", "beats.nrrd", "beats.seq.nrrd"])
def test_frames_come_back_from_a_file_as_they_were(tmp_path, name):
    series = Series(frames(), start=5.0, step=2.0)
    write_series(series, tmp_path / name)
    read = read_series([tmp_path / name])
    assert len(read.frames) == 4
    for one, other in zip(series.frames, read.frames):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
        np.testing.assert_allclose(one.GetDirection(), other.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing(), atol=1e-6)


def test_a_sequence_keeps_what_it_says_of_its_index(tmp_path):
    notes = {"axis 0 index type": "numeric", "axis 0 index values": "0 40 95", "DataNodeClassName": "vtkMRMLVolumeNode"}
    write_series(Series(frames(3), notes=notes), tmp_path / "a.seq.nrrd")
    read = read_series([tmp_path / "a.seq.nrrd"])
    assert dict(read.notes) == notes
    head = (tmp_path / "a.seq.nrrd").read_bytes().partition(b"\n\n")[0]
    assert b"kinds: list domain domain domain" in head


def test_a_sequence_may_have_its_frames_on_the_last_axis(tmp_path):
    values = np.arange(2 * 4 * 5 * 6, dtype="<i2").reshape(2, 6, 5, 4)
    head = (
        "NRRD0005\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 4 5 6 2\n"
        "space directions: (1,0,0) (0,1.5,0) (0,0,2) none\nkinds: domain domain domain list\nendian: little\n"
        "encoding: raw\nspace origin: (1,2,3)\naxis 3 index values:=0 7\n\n"
    )
    (tmp_path / "a.seq.nrrd").write_bytes(head.encode() + values.tobytes())
    read = read_series([tmp_path / "a.seq.nrrd"])
    for frame, expected in zip(read.frames, values):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(frame), expected)
    assert read.notes == {"axis 0 index values": "0 7"}


def test_several_files_are_frames_on_grids_of_their_own(tmp_path):
    visits = [blob_image(), blob_image(size=(40, 40, 30), degrees=(5.0, 10.0, -9.0))]
    paths = [tmp_path / f"visit{n}.nii.gz" for n in range(2)]
    for image, path in zip(visits, paths):
        sitk.WriteImage(image, str(path))
    assert [frame.GetSize() for frame in read_series(paths).frames] == [image.GetSize() for image in visits]


def written(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def test_what_is_no_series_is_refused_with_a_sentence(tmp_path):
    single = written(blob_image(), tmp_path / "one.nii.gz")
    with pytest.raises(DimensionError, match="is a single volume; a series needs a 4D file, or several files"):
        read_series([single])
    colours = written(sitk.Compose([blob_image()] * 3), tmp_path / "rgb.nrrd")
    with pytest.raises(DimensionError, match="is a single volume"):
        read_series([colours])
    holes = sitk.GetArrayFromImage(blob_image())
    holes[2, 2, 2] = np.inf
    damaged = sitk.GetImageFromArray(holes)
    damaged.CopyInformation(blob_image())
    with pytest.raises(NonFiniteError, match=r"frame 1 of .*four.nrrd holds NaN"):
        read_series([written(sitk.JoinSeries([blob_image(), damaged]), tmp_path / "four.nrrd")])
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(written(sitk.JoinSeries(frames()), tmp_path / "whole.nii.gz").read_bytes()[:-5000])
    with pytest.raises(UnreadableFileError, match="damaged"):
        read_series([cut])


# Into one space


@pytest.mark.parametrize(("reference", "number"), [(0, 3), (0, 1), (2, 3), (3, 0), (2, 0), (1, 1)])
def test_a_chain_goes_from_the_reference_by_all_frames_between(reference, number):
    forth = chained(RING, reference, number)
    if number >= reference:
        way = sitk.CompositeTransform([RING[n].forth for n in reversed(range(reference, number))] or [sitk.Transform()])
    else:
        way = sitk.CompositeTransform([RING[n].back for n in range(number, reference)])
    assert np.linalg.norm(moved(forth.forth, POINTS) - moved(way, POINTS), axis=1).max() < 0.1
    assert np.linalg.norm(moved(forth.back, moved(way, POINTS)) - POINTS, axis=1).max() < 0.2


def test_neighbours_close_the_ring():
    assert neighbours(3) == [(0, 1), (1, 2), (2, 0)]


def known(pairs):
    """What "registers" neighbours by knowing, and others along the shorter chain."""
    return [RING[fixed] if moving == (fixed + 1) % 4 else chained(RING, fixed, moving) for fixed, moving in pairs]


@pytest.mark.parametrize("to", ["reference", "neighbour"])
def test_consistent_registrations_lead_back_and_frames_meet(to):
    # Frame 0, seen from the others: what is at a point of frame n was at the way back in frame 0.
    images = [
        sitk.Resample(blob_image(), blob_image(), chained(RING, 0, n).back, sitk.sitkLinear, 0.0) for n in range(4)
    ]
    found = align_series(images, SeriesOptions(to), known)
    assert Grid.of(found.common) == Grid.of(images[0])
    for frame, measures in zip(found.warped, found.measures):
        assert Grid.of(frame) == Grid.of(images[0])
        assert measures["inverse_mm"]["mean"] < 0.1
        assert measures["cycle_mm"]["mean"] < 0.2
        assert measures["ncc_after"] > 0.99
    assert found.measures[2]["ncc_before"] < 0.98


def test_a_registration_that_errs_shows_in_the_cycle_of_its_frame():
    """A millimetre too far from frame 1 to frame 2: around the ring from anywhere, or by the frames beside it."""

    def erring(pairs):
        far = sitk.CompositeTransform([sitk.TranslationTransform(3, (0.0, 1.0, 0.0)), RING[1].forth])
        return [Link(far, one.back) if pair == (1, 2) else one for pair, one in zip(pairs, known(pairs))]

    images = [blob_image()] * 4
    around = [m["cycle_mm"]["mean"] for m in align_series(images, SeriesOptions("neighbour"), erring).measures]
    assert around == pytest.approx([1.0] * 4, abs=0.3)
    beside = [m["cycle_mm"]["mean"] for m in align_series(images, SeriesOptions("reference"), erring).measures]
    assert beside[1] == pytest.approx(1.0, abs=0.2)
    assert max(beside[0], *beside[2:]) < 0.2


def test_without_neighbours_there_is_no_cycle():
    calls = []

    def register_pairs(pairs):
        calls.append(list(pairs))
        return known(pairs)

    found = align_series([blob_image()] * 4, SeriesOptions(reference=2, cycle=False), register_pairs)
    assert calls == [[(2, 0), (2, 1), (2, 3)]]
    assert all("cycle_mm" not in measures for measures in found.measures)
    assert found.measures[2]["inverse_mm"]["max"] == 0


def test_frames_come_to_their_template():
    grid = Grid.of(blob_image())
    template = Turn(1, blob_image(), [chained(RING, 0, n).forth for n in range(4)])
    found = align_series([blob_image()] * 4, SeriesOptions("template"), known, template)
    assert Grid.of(found.warped[3]) == grid
    assert max(measures["cycle_mm"]["mean"] for measures in found.measures) < 0.2
    with pytest.raises(ImageError, match="Frame 2 could not be registered"):
        align_series(
            [blob_image()] * 4,
            SeriesOptions("template"),
            known,
            Turn(1, blob_image(), [RING[0].forth] * 2 + [None] * 2),
        )


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="none of them"):
        SeriesOptions("mean")
    with pytest.raises(OptionError, match="There is no frame 4: the series has the frames 0 to 3"):
        align_series(frames(), SeriesOptions(reference=4))


@pytest.mark.slow
def test_a_moving_object_is_followed_by_real_registrations():
    series = [blob_image(shift=(2.0 * n, 0.0, -1.0 * n)) for n in range(3)]
    how = RegistrationOptions(model="none", prealign="rigid", refine=0, similarity="mse", spacing=4.0)
    found = align_series(series, SeriesOptions("neighbour"), one_by_one(series, how))
    shift = moved(found.links[2].forth, POINTS) - POINTS
    np.testing.assert_allclose(shift.mean(axis=0), (4.0, 0.0, -2.0), atol=0.3)
    assert found.measures[2]["ncc_after"] > 0.99 > found.measures[2]["ncc_before"]
