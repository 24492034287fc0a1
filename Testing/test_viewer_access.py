"""What a browser may have read, and what it may not, however it asks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import UnreadableFileError
from DeepRegAttentionLib.engine.result_folder import read_metrics, recorded_inputs
from DeepRegAttentionLib.viewer.access import Access, require_one_file, safe_name, uploaded_image
from hypothesis import given
from hypothesis import strategies as st

Folders = tuple[Path, Path]


@pytest.fixture
def folders(tmp_path: Path, make_image) -> Folders:
    """A folder that may be read, and one beside it that may not, each with an image."""
    for name in ("open", "secret"):
        (tmp_path / name).mkdir()
        sitk.WriteImage(make_image((12, 10, 8)), str(tmp_path / name / "image.nii.gz"))
    return tmp_path / "open", tmp_path / "secret"


def test_what_lies_within_is_read(folders: Folders) -> None:
    access = Access.to([folders[0]])
    assert access.image(folders[0] / "image.nii.gz") == folders[0].resolve() / "image.nii.gz"
    assert access.image(f"{folders[0]}/../open/./image.nii.gz").name == "image.nii.gz"


@pytest.mark.parametrize(
    "escape",
    ["{secret}/image.nii.gz", "{open}/../secret/image.nii.gz", "{open}/link.nii.gz", "{open}/linked/image.nii.gz",
     "/etc/passwd", "~root/.profile", "{open}x/image.nii.gz", "{open}/\0image.nii.gz", "", "{secret}/missing.nii.gz"],
)  # fmt: skip
def test_no_path_leads_outside(folders: Folders, escape: str) -> None:
    allowed, secret = folders
    (allowed / "link.nii.gz").symlink_to(secret / "image.nii.gz")
    (allowed / "linked").symlink_to(secret)
    (allowed.parent / "openx").mkdir()
    text = escape.format(open=allowed, secret=secret)
    with pytest.raises(UnreadableFileError) as refused:
        Access.to([allowed]).image(text)
    # Nothing tells whether a file outside exists.
    assert "does not exist" not in str(refused.value)


def test_a_dicom_folder_may_not_hold_links_to_the_outside(folders: Folders) -> None:
    allowed, secret = folders
    series = allowed / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"")
    assert Access.to([allowed]).image(series) == series.resolve()
    (series / "2.dcm").symlink_to(secret / "image.nii.gz")
    with pytest.raises(UnreadableFileError, match="links to files outside"):
        Access.to([allowed]).image(series)


def test_a_single_file_opens_nothing_beside_it(folders: Folders) -> None:
    allowed, secret = folders
    access = Access.to([allowed], [secret / "image.nii.gz"])
    assert access.image(secret / "image.nii.gz").name == "image.nii.gz"
    (secret / "other.nii.gz").write_bytes((secret / "image.nii.gz").read_bytes())
    with pytest.raises(UnreadableFileError, match="outside"):
        access.image(secret / "other.nii.gz")


def test_entries_are_images_results_and_folders_within(folders: Folders) -> None:
    allowed, secret = folders
    (allowed / "linked").symlink_to(secret)
    (allowed / ".hidden.nii.gz").write_bytes(b"")
    (allowed / "notes.txt").write_text("no image", encoding="utf-8")
    for name in ("a result", "deeper"):
        (allowed / name).mkdir()
    (allowed / "a result" / "metrics.json").write_text("{}", encoding="utf-8")
    entries = Access.to([allowed]).entries(allowed)
    assert [(entry["name"], entry["kind"]) for entry in entries] == [
        ("a result", "result"),
        ("deeper", "folder"),
        ("image.nii.gz", "image"),
    ]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_images_in_one_file_are_taken(tmp_path: Path, make_image, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    for compressed in (False, True):
        sitk.WriteImage(make_image((12, 10, 8)), str(path), useCompression=compressed)
        require_one_file(path)


def test_a_header_that_points_elsewhere_is_refused(tmp_path: Path, make_image) -> None:
    """It would have any file of the server read as voxels."""
    sitk.WriteImage(make_image((12, 10, 8)), str(tmp_path / "a.nhdr"))
    sitk.WriteImage(make_image((12, 10, 8)), str(tmp_path / "b.mhd"))
    sitk.WriteImage(make_image((12, 10, 8)), str(tmp_path / "c.hdr"))
    disguised = {
        "a.nrrd": (tmp_path / "a.nhdr").read_bytes().replace(b"data file: ", b"Datafile: /"),
        "b.mha": (tmp_path / "b.mhd").read_bytes(),
        "c.nii": (tmp_path / "c.hdr").read_bytes(),
        "d.nii.gz": gzip.compress(b"NRRD0004\ndata file: /etc/passwd\n\n"),
        "e.mha": b"ElementDataFile = LIST\n/etc/passwd\n",
        "f.mha": b"ElementDataFile = /etc/passwd\nElementDataFile = LOCAL\n",
        "h.mha": b"elementdatafile = LOCAL\nElementDataFile = /etc/passwd\n",
        "i.nrrd": b"NRRD0004\r# x\rdata file: /etc/passwd\n\n",
        "g.nrrd": b"NRRD0004\n" + b"# a long comment\n" * 5000 + b"data file: /etc/passwd\n\n",
    }
    for name, content in disguised.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFileError, match="another file"):
            require_one_file(tmp_path / name)
    for name in ("a.nhdr", "b.mhd", "c.hdr"):
        with pytest.raises(UnreadableFileError, match="not of a format"):
            require_one_file(tmp_path / name)


@given(st.text(max_size=200))
def test_the_name_of_an_upload_is_harmless(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert safe not in (".", "..")
    assert Path(safe).name == safe
    assert not set(safe) & set('/\\\0:*?"<>|')
    assert safe_name(safe) == safe


def test_an_upload_is_one_image_or_one_series(tmp_path: Path, make_image) -> None:
    with pytest.raises(UnreadableFileError, match="Upload one image"):
        uploaded_image(tmp_path / "nothing")
    sitk.WriteImage(make_image((12, 10, 8)), str(tmp_path / "a.mha"))
    assert uploaded_image(tmp_path) == tmp_path / "a.mha"
    (tmp_path / "1.dcm").write_bytes(b"")
    with pytest.raises(UnreadableFileError, match="Upload one image"):
        uploaded_image(tmp_path)
    (tmp_path / "a.mha").rename(tmp_path / "2.dcm")
    assert uploaded_image(tmp_path) == tmp_path


@pytest.mark.parametrize("content", [None, "{", "[]", '"text"'])
def test_a_folder_without_metrics_is_no_result(tmp_path: Path, content: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableFileError, match="no result"):
        read_metrics(tmp_path)


def test_recorded_inputs_are_taken_as_far_as_they_make_sense(tmp_path: Path) -> None:
    inputs = {"fixed": "/data/a.nii.gz", "moving": 3, "labels": "/data/b.nii.gz"}
    (tmp_path / "metrics.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    assert recorded_inputs(read_metrics(tmp_path)) == {"fixed": Path("/data/a.nii.gz")}
    assert recorded_inputs({}) == {}
    assert recorded_inputs({"inputs": "none"}) == {}
