"""The command line, as a user meets it: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from DeepRegAttentionLib.case import read_transform
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cli.console import ReadableErrors, readable_warnings
from DeepRegAttentionLib.cli.demo import read_label_names, tissue_map, tissue_overlap
from DeepRegAttentionLib.cli.files import write_image
from DeepRegAttentionLib.cli.settings import read_options
from DeepRegAttentionLib.engine import resources
from DeepRegAttentionLib.engine.errors import OutputError, RegistrationWarning
from DeepRegAttentionLib.engine.hardware import limited_threads
from DeepRegAttentionLib.engine.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegAttentionLib.engine.models.files import find_model, save_model
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.terms.measures import rows
from DeepRegAttentionLib.terms.presets import read_preset
from helpers.images import blob_image
from typer.testing import CliRunner

FAST = ("--model", "none", "--prealign", "none", "--refine", "2", "--spacing", "5")
COMMAND = [sys.executable, "-c", "from DeepRegAttentionLib.cli import main; main()"]
POINTS = np.array([[31.0, -57.0, 112.0], [27.0, -50.0, 104.0], [38.0, -61.0, 118.0]])


def call(*arguments: object):
    # A command sets the threads of its process, which here is that of the tests.
    with limited_threads(None):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_line(result) -> str:
    """The one error line of a failed call: anything else on standard error is the name of a stage."""
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if not line.endswith("…")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Path:
    """A folder with two images of one object on different grids, and all that may be given along."""
    folder = tmp_path_factory.mktemp("case")
    fixed = blob_image()
    moving = blob_image(size=(40, 40, 30), degrees=(5.0, 10.0, -9.0), shift=(2.0, 1.0, -2.0))
    for name, image in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        sitk.WriteImage(sitk.Cast(image > 0.5, sitk.sitkUInt8), str(folder / f"{name}-labels.nii.gz"))
    sitk.WriteImage(sitk.Abs(blob_image()) + 0.5, str(folder / "stiffness.nii.gz"))
    write_landmarks(folder / "fixed.mrk.json", Landmarks(POINTS))
    write_landmarks(folder / "moving.fcsv", Landmarks(POINTS + np.array((2.0, 1.0, -2.0))))
    shift = sitk.TranslationTransform(3, (1.0, 0.5, -1.0))
    sitk.WriteTransform(shift, str(folder / "shift.tfm"))
    return folder


@pytest.fixture(scope="session")
def registered(case, tmp_path_factory):
    """One registration with everything given: the call's outcome and the result folder."""
    output = tmp_path_factory.mktemp("registered") / "new" / "result"
    arguments = [*FAST, "--initial-transform", case / "shift.tfm", "--landmark-weight", 0.01]
    for role in ("fixed", "moving"):
        arguments += [f"--{role}-mask", case / f"{role}-labels.nii.gz"]
    arguments += ["--labels", case / "moving-labels.nii.gz", "--fixed-labels", case / "fixed-labels.nii.gz"]
    arguments += ["--fixed-landmarks", case / "fixed.mrk.json", "--moving-landmarks", case / "moving.fcsv"]
    arguments += [
        "--regularization-map",
        case / "stiffness.nii.gz",
        "--precision",
        "float32",
        "--threads",
        1,
        "--displacement",
    ]
    return call("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", output, *arguments), output


# Help


def test_help_needs_nothing_heavy_and_tells_the_exit_codes():
    script = "import sys, DeepRegAttentionLib.cli; print({'torch', 'SimpleITK', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"
    text = " ".join(call("--help").stdout.split())
    for phrase in ("0 done", "4 no overlap", "130 cancelled"):
        assert phrase in text


def test_every_option_of_the_engine_is_on_the_command_line():
    text = call("register", "--help").stdout
    # Nobody is asked on the command line, so no licence is left open.
    others = {"accepted_licences": "--accept-licence", "undecided_licences": ""}
    for name in RegistrationOptions().to_dict():
        assert others.get(name, f"--{name.replace('_', '-')}") in text


# Register


def test_licences_that_are_accepted_reach_the_choice_of_a_model(case, tmp_path):
    images = ("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", tmp_path / "out")
    outcome = call(*images, "--accept-licence", "cardiac-mr", "--accept-licence", "cardiac")
    assert outcome.exit_code == 2
    assert "no model “cardiac” to accept the licence of (did you mean “cardiac-mr”?)" in error_line(outcome)


def test_levels_of_the_driving_force_are_written_on_request(case, tmp_path):
    configuration = {"channels": [4, 8], "radius": 1}
    shape = {"network": "drivenmorph", "configuration": configuration, "shape_multiple": 2, "structures_share": 0.0}
    model = tmp_path / "small.safetensors"
    save_model(build_network("drivenmorph", configuration), replace(find_model("brain-t1").info, **shape), model)
    images = ("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", tmp_path / "out")
    for switch, written in (("--levels", ["driving_force_1.nrrd", "driving_force_2.nrrd"]), ("--no-levels", [])):
        outcome = call(*images, *FAST, "--model", model, "--format", "nrrd", switch)
        assert outcome.exit_code == 0, outcome.output
        assert sorted(path.name for path in (tmp_path / "out").glob("driving_force_[0-9]*")) == written


def test_register_writes_the_result_and_one_table(registered):
    outcome, output = registered
    assert outcome.exit_code == 0, outcome.stderr
    expected = {"warped", "warped_labels", "displacement", "jacobian", "difference_before", "difference_after"}
    assert expected <= {path.name.split(".")[0] for path in output.iterdir()}
    assert not [name for name in files_in(output) if name.startswith(".")]
    for row in rows(json.loads((output / "metrics.json").read_text(encoding="utf-8"))):
        assert sum(line.strip().startswith(row.label) for line in outcome.stdout.splitlines()) == 1
    assert str(output.resolve()) in outcome.stdout


def test_register_passes_everything_on(registered, case):
    metrics = json.loads((registered[1] / "metrics.json").read_text(encoding="utf-8"))
    options = metrics["options"]
    assert (options["refine"], options["spacing"], options["threads"]) == (2, 5.0, 1)
    assert options["landmark_weight"] == 0.01
    assert metrics["labels"]["after"]["mean_dice"] > metrics["labels"]["before"]["mean_dice"] > 0.5
    # The shift between the landmarks is (2, 1, -2) mm, of which the initial transform takes half.
    assert metrics["landmarks"]["before_mm"]["mean"] == pytest.approx(3.0, abs=1e-4)
    assert metrics["landmarks"]["after_mm"]["mean"] < 2.0


def test_progress_is_plain_without_a_terminal(registered):
    lines = registered[0].stderr.splitlines()
    assert "Refining …" in lines
    assert lines[-1] == "writing the result …"
    assert "\x1b" not in registered[0].stderr


def test_register_a_dicom_folder_and_replace_an_older_result(case, tmp_path):
    write_dicom(tmp_path / "series", sitk.ReadImage(str(case / "moving.nii.gz")))
    output = tmp_path / "result"
    arguments = ("register", case / "fixed.nii.gz", tmp_path / "series", "-o", output, *FAST, "--no-maps")
    assert call(*arguments).exit_code == 0
    (output / "notes.txt").write_text("mine", encoding="utf-8")
    outcome = call(*arguments, "--format", "nrrd")
    assert outcome.exit_code == 0, outcome.stderr
    images = {"warped.nrrd", "jacobian.nrrd"}
    others = {"transform.h5", "inverse_transform.h5", "metrics.json", "notes.txt"}
    assert set(files_in(output)) == images | others


def write_dicom(folder: Path, image: sitk.Image) -> None:
    folder.mkdir()
    image = sitk.Cast(sitk.RescaleIntensity(image, 0, 1000), sitk.sitkInt16)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        part.SetMetaData("0020|000e", "1.2.826.0.1.3680043.2.1125.1")
        part.SetMetaData("0020|0032", "\\".join(f"{x:.6f}" for x in position))
        part.SetMetaData("0020|0037", "\\".join(f"{x:.8f}" for x in direction[:, :2].T.ravel()))
        part.SetMetaData("0020|0013", str(k))
        writer.SetFileName(str(folder / f"{k:03}.dcm"))
        writer.Execute(part)


def test_an_initial_transform_may_be_a_displacement_field(case, tmp_path):
    fixed = sitk.ReadImage(str(case / "fixed.nii.gz"))
    shift = read_transform(case / "shift.tfm")
    field = sitk.TransformToDisplacementField(
        shift, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    write_image(field, tmp_path / "field.nii.gz")
    found = read_transform(tmp_path / "field.nii.gz").TransformPoint(POINTS[0].tolist())
    assert found == pytest.approx(POINTS[0] + (1.0, 0.5, -1.0), abs=1e-4)


def test_warnings_are_lines():
    def warn() -> None:
        with readable_warnings():
            warnings.warn("The grid\nis coarse.", RegistrationWarning, stacklevel=1)
            warnings.warn("of a library", UserWarning, stacklevel=1)

    outcome = CliRunner().invoke(_app_that(warn))
    assert outcome.stderr == "warning: The grid is coarse.\n"


def _app_that(function) -> typer.Typer:
    small = typer.Typer(pretty_exceptions_enable=False)

    @small.command()
    @ReadableErrors()
    def _command() -> None:
        function()

    return small


# Errors


def bad_images(folder: Path) -> dict[str, Path]:
    array = sitk.GetArrayFromImage(blob_image(size=(12, 12, 12), spacing=(5, 5, 5)))
    nan = array.copy()
    nan[3, 4, 5] = np.nan
    images = {
        "nan": sitk.GetImageFromArray(nan),
        "constant": sitk.GetImageFromArray(np.full_like(array, 7)),
        "flat": sitk.GetImageFromArray(array[4]),
        "four": sitk.GetImageFromArray(np.stack([array, array]), isVector=False),
        "vector": sitk.Compose(*[sitk.GetImageFromArray(array)] * 3),
        "thin": sitk.GetImageFromArray(array[:2]),
    }
    paths = {name: folder / f"{name}.nii.gz" for name in (*images, "truncated", "missing", "empty")}
    # The library that reads NIfTI turns NaN into 0.
    paths["nan"] = folder / "nan.nrrd"
    for name, image in images.items():
        sitk.WriteImage(image, str(paths[name]))
    whole = folder / "whole.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(whole))
    paths["truncated"] = folder / "truncated.nrrd"
    paths["truncated"].write_bytes(whole.read_bytes()[:3000])
    paths["empty"].write_bytes(b"")
    paths["no series"] = folder / "folder"
    paths["no series"].mkdir()
    return paths


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [
        ("missing", "does not exist"),
        ("truncated", "damaged"),
        ("empty", "damaged"),
        ("no series", "no DICOM series"),
        ("flat", "2 dimensions"),
        ("four", "4 dimensions"),
        ("vector", "3 values per voxel"),
        ("thin", "at least 4"),
        ("nan", "NaN"),
        ("constant", "every voxel is 7"),
    ],
)
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_bad_image_is_one_line_and_code_3(kind, phrase, role, case, tmp_path, capfd):
    paths = {name: case / f"{name}.nii.gz" for name in ("fixed", "moving")}
    paths[role] = bad_images(tmp_path)[kind]
    # Labels that no longer fit must not hide what is wrong.
    labels = ("--labels", case / "moving-labels.nii.gz")
    outcome = call("register", paths["fixed"], paths["moving"], "-o", tmp_path / "out", *FAST, *labels)
    assert outcome.exit_code == 3
    assert phrase in error_line(outcome)
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr().err == ""  # nothing from C libraries either


def failing_options(case: Path, folder: Path) -> dict[str, tuple[int, str, tuple[object, ...]]]:
    small = blob_image(size=(8, 8, 8))
    write_image(sitk.Cast(small > 0, sitk.sitkUInt8), folder / "small.nii.gz")
    write_image(sitk.Cast(blob_image() > 1e9, sitk.sitkUInt8), folder / "nowhere.nii.gz")
    (folder / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json, at all")
    (folder / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 200)
    (folder / "one.txt").write_text("1 2 3\n", encoding="utf-8")
    (folder / "list.json").write_text("[1]", encoding="utf-8")
    (folder / "key.json").write_text('{"refin": 3}', encoding="utf-8")
    sitk.WriteTransform(sitk.TranslationTransform(3, (500.0, 0.0, 0.0)), str(folder / "far.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (5.0, 0.0)), str(folder / "flat.tfm"))
    both = ("--fixed-landmarks", case / "fixed.mrk.json", "--moving-landmarks")
    return {
        "option value": (2, "did you mean “lncc”", ("--similarity", "lnc")),
        "option range": (2, "between", ("--refine", -1)),
        "format": (2, "nii.gz or nrrd", ("--format", "png")),
        "preset name": (2, "did you mean “balanced”", ("--preset", "balance")),
        "preset file": (2, "no such file", ("--preset", folder / "absent.json")),
        "preset list": (2, "one object", ("--preset", folder / "list.json")),
        "preset key": (2, "did you mean “refine”", ("--preset", folder / "key.json")),
        "labels alone": (2, "--labels", ("--fixed-labels", case / "fixed-labels.nii.gz")),
        "landmarks alone": (2, "--moving-landmarks", ("--fixed-landmarks", case / "fixed.mrk.json")),
        "landmark weight alone": (2, "--fixed-landmarks", ("--landmark-weight", 1)),
        "labels of another size": (3, "voxels", ("--labels", folder / "small.nii.gz")),
        "landmarks not in pairs": (3, "pairs", (*both, folder / "one.txt")),
        "landmarks missing": (3, "cannot be read", (*both, folder / "absent.fcsv")),
        "mask empty": (3, "empty", ("--fixed-mask", folder / "nowhere.nii.gz")),
        "transform missing": (3, "does not exist", ("--initial-transform", folder / "absent.h5")),
        "transform damaged": (3, "damaged", ("--initial-transform", folder / "damaged.h5")),
        "transform 2D": (3, "3D", ("--initial-transform", folder / "flat.tfm")),
        "transform an image": (3, "vectors", ("--initial-transform", case / "fixed.nii.gz")),
        "no overlap": (4, "overlap", ("--initial-transform", folder / "far.tfm")),
        "model damaged": (5, "damaged", ("--model", folder / "damaged.safetensors")),
        "model unknown": (5, "no model", ("--model", "liver-pet")),
        "output under a file": (6, "is a file", ("-o", folder / "one.txt" / "result")),
        "output a file": (6, "is a file", ("-o", folder / "one.txt")),
    }


@pytest.fixture(scope="module")
def failures(case, tmp_path_factory):
    return failing_options(case, tmp_path_factory.mktemp("failures"))


def test_each_mistake_is_one_line_and_its_code(failures, case, tmp_path, capfd):
    wrong = {}
    for kind, (code, phrase, arguments) in failures.items():
        images = case / "fixed.nii.gz", case / "moving.nii.gz"
        outcome = call("register", *images, "-o", tmp_path / "out", *FAST, *arguments)
        if outcome.exit_code != code or phrase not in error_line(outcome) or files_in(tmp_path):
            wrong[kind] = (outcome.exit_code, outcome.output, files_in(tmp_path))
    assert not wrong
    assert capfd.readouterr().err == ""


def test_a_missing_output_option_is_a_usage_error(case):
    outcome = call("register", case / "fixed.nii.gz", case / "moving.nii.gz")
    assert outcome.exit_code == 2
    assert "--output" in outcome.stderr


def test_an_unexpected_error_is_one_line_and_with_debug_a_traceback(monkeypatch):
    failing = _app_that(lambda: 1 // 0)
    outcome = CliRunner().invoke(failing)
    assert outcome.exit_code == 1
    assert "ZeroDivisionError" in error_line(outcome)
    assert "--debug" in error_line(outcome)
    monkeypatch.setattr(ReadableErrors, "debug", True)
    assert "Traceback" in CliRunner().invoke(failing).stderr


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 7), (KeyboardInterrupt(), 130)])
def test_memory_and_interruption_have_their_codes(error, code):
    def fail() -> None:
        raise error

    outcome = CliRunner().invoke(_app_that(fail))
    assert outcome.exit_code == code
    assert len(outcome.stderr.splitlines()) == 1


# Interruption and full disks


@pytest.mark.slow
def test_ctrl_c_during_the_refinement_leaves_nothing(case, tmp_path):
    output = tmp_path / "result"
    arguments = ["register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", output, *FAST]
    arguments += ["--refine", 10_000, "--spacing", 2]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A shell that runs the tests in the background makes its children deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    while "Refining" not in (line := process.stderr.readline()):
        assert line, "it ended before the refinement"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "cancelled"
    assert files_in(tmp_path) == []


@contextmanager
def largest_file(size: int):
    """No file may grow beyond so many bytes, much as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_older_result(case, tmp_path, capfd):
    output = tmp_path / "result"
    arguments = ("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", output, *FAST)
    assert call(*arguments).exit_code == 0
    older = {path.name: path.read_bytes() for path in output.iterdir()}
    with largest_file(40_000):
        outcome = call(*arguments, "--refine", 3)
    assert outcome.exit_code == 6
    assert "cannot be written" in error_line(outcome)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == older
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_full_disk_does_not_crash_the_process(case, tmp_path):
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY));"
        "from DeepRegAttentionLib.cli import main; main()"
    )
    arguments = ["register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", tmp_path / "result", *FAST]
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith(b"error: ")
    assert files_in(tmp_path / "result") == []


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_that_does_not_fit_is_not_left_in_part(ending, tmp_path):
    noise = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(40, 40, 40)).astype(np.float32))
    path = tmp_path / f"noise{ending}"
    with largest_file(40_000), pytest.raises(OutputError, match="cannot be written"):
        write_image(noise, path)
    assert files_in(tmp_path) == []
    write_image(noise, path)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), sitk.GetArrayFromImage(noise))


def test_a_full_disk_is_told_as_such(tmp_path):
    empty = sitk.Image(4, 4, 4, sitk.sitkFloat32)
    result = RegistrationResult(empty, sitk.Transform(3, sitk.sitkIdentity), None)
    with largest_file(10), pytest.raises(OutputError, match=r"disk|large"):
        result.save(tmp_path / "result")


# Warp


def test_warp_repeats_the_registration(registered, case, tmp_path):
    grid = ("-r", case / "fixed.nii.gz")
    for name, transform in (("chain.nii.gz", "transform.h5"), ("field.nrrd", "displacement.nii.gz")):
        arguments = ("-t", registered[1] / transform, *grid, "-o", tmp_path / name)
        outcome = call("warp", case / "moving.nii.gz", *arguments)
        assert outcome.exit_code == 0, outcome.stderr
        warped, expected = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            for path in (tmp_path / name, registered[1] / "warped.nii.gz")
        )
        # Points on the very rim of the moving image or of the field may fall on either side of it.
        alike = np.abs(warped - expected) < 1e-3 * np.ptp(expected)
        assert alike.mean() > 0.998


def test_warp_a_label_map_keeps_labels(registered, case, tmp_path):
    output = tmp_path / "labels.nii.gz"
    transform = ("-t", registered[1] / "transform.h5", "-r", case / "fixed.nii.gz")
    assert call("warp", case / "moving-labels.nii.gz", *transform, "-o", output, "--labels").exit_code == 0
    images = [sitk.ReadImage(str(path)) for path in (output, registered[1] / "warped_labels.nii.gz")]
    assert images[0].GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(*(sitk.GetArrayFromImage(image) for image in images))


def test_warp_points_go_from_fixed_to_moving_and_back(registered, case, tmp_path):
    there, back = tmp_path / "there.fcsv", tmp_path / "back.txt"
    assert call("warp", case / "fixed.mrk.json", "-t", registered[1] / "transform.h5", "-o", there).exit_code == 0
    assert call("warp", there, "-t", registered[1] / "inverse_transform.h5", "-o", back).exit_code == 0
    moved = read_landmarks(there).points - POINTS
    assert np.all(np.sign(moved.mean(axis=0)) == (1, 1, -1))
    assert np.abs(read_landmarks(back).points - POINTS).max() < 0.05


def test_warp_says_what_is_missing(case, tmp_path):
    shift = ("-t", case / "shift.tfm")
    outcome = call("warp", case / "moving.nii.gz", *shift, "-o", tmp_path / "out.nii.gz")
    assert outcome.exit_code == 2
    assert "--reference" in error_line(outcome)
    outcome = call("warp", case / "moving.nii.gz", *shift, "-r", case / "fixed.nii.gz", "-o", tmp_path / "out.xyz")
    assert outcome.exit_code == 6
    assert "format" in error_line(outcome)
    assert files_in(tmp_path) == []


# Presets


def test_options_given_win_over_a_preset():
    preset = read_preset("accurate")
    assert preset["refine"] > read_preset("fast")["refine"] == 0
    assert read_options("balanced", {}).refine is None
    assert read_options("balanced", {"refine": 7}).refine == 7
    options = read_options("accurate", {"refine": 7, "model": None})
    assert options.refine == 7
    assert options.model == RegistrationOptions().model
    assert read_options("accurate", {}).refine == preset["refine"]
    assert read_options(None, {}) == RegistrationOptions()


@pytest.mark.parametrize(("model", "steps"), [("hippocampus-mr", 0), ("brain-t1", 20)])
def test_balanced_refines_as_much_as_the_model_recommends(model, steps, case, tmp_path):
    arguments = ["--preset", "balanced", "--model", model, "--prealign", "none", "--spacing", 5, "--no-maps"]
    outcome = call("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", tmp_path, *arguments)
    assert outcome.exit_code == 0, outcome.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["options"]["refine"], metrics["refinement_steps"]) == (None, steps)


# Models, info, train


def test_models_lists_what_a_folder_holds(tmp_path, monkeypatch):
    from DeepRegAttentionLib.engine.models import files as engine_models
    from DeepRegAttentionLib.engine.models import listing
    from DeepRegAttentionLib.engine.networks import build_network
    from test_models import make_info

    for module in (engine_models, listing):
        monkeypatch.setattr(module, "resource_folder", lambda name: tmp_path / name)
    (tmp_path / "Models").mkdir()
    info = make_info()
    path = tmp_path / "Models" / f"{info.name}.safetensors"
    engine_models.save_model(build_network(info.network, info.configuration), info, path)
    engine_models.register_model(path)
    (entry,) = json.loads(call("models", "--json").stdout)
    assert (entry["name"], entry["licence"]) == (info.name, info.licence)
    assert len(entry["sha256"]) == 64
    table = " ".join(call("models").stdout.split())
    for text in (info.name, info.network, f"{info.spacing:g} mm"):
        assert text in table


def test_a_damaged_list_of_models_is_code_5(tmp_path, monkeypatch):
    from DeepRegAttentionLib.engine.models import listing

    (tmp_path / "models.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(listing, "resource_folder", lambda name: tmp_path)
    outcome = call("models")
    assert outcome.exit_code == 5
    assert "not valid JSON" in error_line(outcome)


def test_info_names_devices_and_versions():
    facts = json.loads(call("info", "--json").stdout)
    assert set(facts["versions"]) == {"deepreg-attention", "torch", "SimpleITK", "numpy", "python"}
    assert facts["device"] in facts["devices"]
    assert "version of torch" in call("info").stdout


def test_train_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("DeepRegAttentionLib.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    outcome = call("train", tmp_path / "a.yaml", "--data-root", tmp_path, "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "deepreg-attention[train]" in error_line(outcome)


# Demo


def test_the_tissue_map_takes_the_larger_share():
    shares = np.array([[[255, 0, 120, 128, 127]], [[0, 255, 125, 127, 128]]], dtype=np.uint8)
    grey, white = (sitk.GetImageFromArray(share[None]) for share in shares)
    assert sitk.GetArrayFromImage(tissue_map(grey, white)).ravel().tolist() == [2, 3, 0, 2, 3]


def test_the_samples_fit_each_other():
    folder = resource_folder("Samples")
    names = read_label_names(folder / "colin27-aal.txt")
    atlas, moving, fixed = (
        sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("colin27-aal", "colin27-t1", "icbm152-t1")
    )
    present = set(np.unique(sitk.GetArrayViewFromImage(atlas)).tolist()) - {0}
    assert present == set(names)
    assert names[1] == "Precentral_L"
    tissues = tissue_map(*(sitk.ReadImage(str(folder / f"icbm152-{t}.nii.gz")) for t in ("grey", "white")))
    shift = sitk.AffineTransform(3)
    shift.SetTranslation((6.0, 0.0, 0.0))
    chain = sitk.CompositeTransform([shift, shift])
    overlap = tissue_overlap(RegistrationResult(fixed, chain, None), moving, tissues)
    for tissue in ("grey", "white"):
        assert 1 > overlap["before"][tissue] > overlap["linear"][tissue] > overlap["after"][tissue] > 0


@pytest.fixture
def coarse_samples(tmp_path, monkeypatch):
    """The sample pair with voxels of 2 mm in place of the shipped one."""
    folder = tmp_path / "Samples"
    folder.mkdir()
    for path in resource_folder("Samples").iterdir():
        if path.name.endswith(".nii.gz"):
            image = sitk.ReadImage(str(path))
            smaller = sitk.BinShrink(image, [2] * 3)
            if "aal" in path.name:
                smaller = sitk.Resample(image, smaller, sitk.Transform(), sitk.sitkNearestNeighbor)
            sitk.WriteImage(smaller, str(folder / path.name))
        else:
            shutil.copy(path, folder)
    monkeypatch.setattr(
        resources, "resource_folder", lambda name: folder if name == "Samples" else resource_folder(name)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("coarse_samples")
def test_the_demo_ends_with_a_report(tmp_path):
    outcome = call("demo", "--output", tmp_path / "demo", "--model", "brain-t1", "--refine", 1)
    assert outcome.exit_code == 0, outcome.stderr
    assert {"report.html", "warped_labels.nii.gz", "transform.h5"} <= set(files_in(tmp_path / "demo"))
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"]["name"] == "brain-t1"
    tissues = metrics["tissue_dice"]
    assert tissues["after"]["grey"] > tissues["before"]["grey"] > 0.5
    assert outcome.stdout.count("Dice of grey matter") == 1
    report, viewer = outcome.stdout.splitlines()[-2:]
    assert report == f"report: {(tmp_path / 'demo' / 'report.html').resolve()}"
    assert viewer == f"browser: deepreg-attention view {tmp_path / 'demo'}"


# Correct


def test_a_result_is_corrected_in_place_and_taken_back(case, tmp_path):
    output = tmp_path / "result"
    images = ("register", case / "fixed.nii.gz", case / "moving.nii.gz", "-o", output, *FAST, "--threads", 1)
    assert call(*images).exit_code == 0
    before = {name: (output / name).read_bytes() for name in files_in(output)}
    goals = POINTS + np.array((3.0, -1.0, 0.0))
    for name, points in (("from.txt", POINTS), ("to.txt", goals)):
        write_landmarks(tmp_path / name, Landmarks(points))
    pairs = ("--fixed-landmarks", tmp_path / "from.txt", "--moving-landmarks", tmp_path / "to.txt")
    outcome = call("correct", output, *pairs, "--report")
    assert outcome.exit_code == 0, outcome.stderr
    transform = read_transform(output / "transform.h5")
    for point, goal in zip(POINTS.tolist(), goals):
        np.testing.assert_allclose(transform.TransformPoint(point), goal, atol=0.01)
    assert outcome.stdout.count("mm off before, 0.0 mm now; felt within") == 3
    assert (output / "report.html").is_file()
    assert (output / "uncorrected" / "metrics.json").is_file()
    outcome = call("correct", output, case / "fixed.nii.gz", case / "moving.nii.gz", "--take-back")
    assert outcome.exit_code == 0, outcome.stderr
    assert {name: (output / name).read_bytes() for name in files_in(output)} == before


def test_what_is_missing_for_a_correction_is_said(registered, case, tmp_path):
    _, output = registered
    one = ("--fixed-landmarks", case / "fixed.mrk.json")
    for arguments, code, phrase in (
        ((output,), 2, "or --take-back"),
        ((output, "--take-back", *one), 2, "or --take-back"),
        ((output, *one), 2, "each point needs its counterpart"),
        ((output, case / "fixed.nii.gz", *one), 2, "belong together: give both"),
        ((tmp_path, "--take-back"), 3, "holds no result"),
    ):
        outcome = call("correct", *arguments)
        assert outcome.exit_code == code
        assert phrase in error_line(outcome)
