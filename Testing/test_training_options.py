"""The configuration file of training: what it may say, and the sentence for each thing that it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="the extra “train” is not installed")

from DeepRegAttentionLib.dataset import read_cases
from DeepRegAttentionLib.engine.errors import ModelError, OptionError, UnreadableFileError
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.models.listing import ModelFile, list_models
from DeepRegAttentionLib.training.augmentation import Affine, Chance, Flip
from DeepRegAttentionLib.training.options import LossWeights, options_to_dict, read_training_options
from helpers.places import MODULE, real_data
from hypothesis import given
from hypothesis import strategies as st

MINIMAL = "name: test\nnetwork: drivenmorph\ndata: here\nmetadata: {}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_minimal_configuration_takes_the_defaults(tmp_path: Path) -> None:
    options = read_training_options(written(tmp_path, MINIMAL))
    assert (options.name, options.network, options.data.cases) == ("test", "drivenmorph", "here")
    assert options.weights == LossWeights()
    assert options.intensity == IntensityRecipe()
    assert options.validation == options.test == options.ignore_labels == ()


def test_sections_and_lists_are_read(tmp_path: Path) -> None:
    text = MINIMAL.replace("data: here", "data: {cases: t.csv, pairs: within-group, validation_pairs: 3}") + (
        "validation: [S1, 2]\ntest: [S3]\nignore_labels: [181]\nspacing: 1.5\nstructures: {left ear: 7}\n"
        "weights: {diffusion: 0.2, labels: 1}\nintensity: {window: [-1000, 400]}\n"
        "augmentation:\n  affine: {degrees: 5}\n  gamma: {probability: 0.5, range: [0.7, 1.5]}\n"
        "  flip: {swap_labels: [[1, 2]]}\n"
    )
    options = read_training_options(written(tmp_path, text))
    assert (options.data.pairs, options.data.validation_pairs) == ("within-group", 3)
    assert options.validation == ("S1", "2")
    assert options.structures == {"left ear": 7}
    assert options.weights == LossWeights(diffusion=0.2, labels=1.0)
    assert options.intensity == IntensityRecipe(window=(-1000, 400))
    assert options.augmentation.affine == Affine(degrees=5.0)
    assert options.augmentation.gamma == Chance(0.5, (0.7, 1.5))
    assert options.augmentation.flip == Flip(swap_labels=((1, 2),))
    assert options_to_dict(options)["weights"]["diffusion"] == 0.2


def test_numbers_that_yaml_takes_for_texts_are_numbers(tmp_path: Path) -> None:
    options = read_training_options(written(tmp_path, MINIMAL + "learning_rate: 1e-3\nspacing: 2\n"))
    assert options.learning_rate == 0.001
    assert options.spacing == 2.0
    assert type(options.spacing) is float


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spacng: 2", r"no setting “spacng” \(did you mean “spacing”"),
        ("weights: {difusion: 1}", r"no setting “weights.difusion” \(did you mean “diffusion”"),
        ("intensity: {windo: [0, 1]}", r"no setting “intensity.windo” \(did you mean “window”"),
        ("augmentation: {affine: {degres: 3}}", r"no setting “augmentation.affine.degres” \(did you mean “degrees”"),
        ("zzz: 2", "no setting “zzz”"),
        ("validation: S35", r"“validation” must be a list, such as \[S35\]"),
        ("validation: [S1]\ntest: [S1]", "“S1” is both in “validation” and in “test”"),
        ("spacing: wide", "“spacing” must be a number; “wide” is not"),
        ("spacing: 0", "“spacing” must be above 0"),
        ("steps: 1.5", "“steps” must be a whole number"),
        ("steps: 0", "“steps” must be at least 1"),
        ("seed: true", "“seed” must be a whole number"),
        ("refine: -1", "“refine” must be at least 0"),
        ("refine: null", "“refine” must be a whole number"),
        ("start_steps: 3", "needs “start_spacing”"),
        ("weights: 3", r"“weights” must hold settings \(name: value\)"),
        ("weights: {labels: -1}", "“weights.labels” must be at least 0"),
        ("similarity: lnc", r"one of lncc, mind, mi, mse; “lnc” is not \(did you mean “lncc”"),
        ("hyperprior: betta", r"“hyperprior” must be one of .* \(did you mean “beta”"),
        (
            "configuration: {spatially_varying: true}\nweights: {hyperprior: 0}",
            "“spatially_varying” needs “weights.hyperprior” above 0",
        ),
        ("data: {cases: images, equal: 1.5}", "data.equal must lie between 0 and 1"),
        ("precision: half", "“precision” must be one of"),
        ("structures: [1, 2]", r"“structures” must hold settings"),
        ("structures: {ear: left}", "“structures.ear” must be a whole number"),
        ("intensity: {window: [1, 2, 3]}", "“intensity.window” must be a list of 2"),
        ("augmentation: {gamma: {range: [0.7, 1.5]}}", "“augmentation.gamma.probability” is missing"),
        ("augmentation: {gamma: {probability: 2, range: [0.7, 1.5]}}", "between 0 and 1; 2 does not"),
        ("augmentation: {gamma: {probability: 1, range: [2, 1.5]}}", "must ascend"),
        ("augmentation: {affine: {scale: -1}}", "“augmentation.affine.scale” must be at least 0"),
        ("weights: {labels: 1}\naugmentation: {flip: {}}", "needs “swap_labels”"),
        ("spacing: 2\naugmentation: {elastic: {smoothness_mm: 0.1}}", "must be at least the spacing, 2 mm"),
        (
            "spacing: 2\nstart_spacing: 4\nstart_steps: 1\naugmentation: {elastic: {smoothness_mm: 3}}",
            "must be at least the spacing, 4 mm",
        ),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_training_options(written(tmp_path, f"{MINIMAL}{line}\n"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{}", "“data.cases” is missing"),
        ("{synthetic: {from_labels: true}}", "“data.cases” is missing"),
        ("[a]", "“data” must hold settings"),
        ("{cases: a, pairs: some}", "“data.pairs” must be one of all, within-group, to-atlas"),
        ("{cases: a, pairs: to-atlas}", "“data.atlas” must be the name of a case"),
        ("{cases: a, atlas: S1}", "“data.atlas” must be .* absent without it"),
        ("{cases: a, validation_pairs: 0}", "“data.validation_pairs” must be at least 1"),
        ("{cases: a, labelled: 1.5}", "data.labelled must lie between 0 and 1"),
        ("{cases: a, labelled: 0.5, synthetic: {}}", "“data.labelled” must be absent with “data.synthetic”"),
        ("{synthetic: {shape: [8, 64, 64]}}", "at least 16 voxels"),
        ("{synthetic: {smoothness: [9, 3]}}", "two ascending scales"),
        ("{synthetic: {noise: -1}}", "negative sizes"),
    ],
)
def test_data_that_make_no_sense_get_a_sentence(tmp_path: Path, data: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_training_options(written(tmp_path, MINIMAL.replace("data: here", f"data: {data}")))


def test_percentiles_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two ascending numbers"):
        read_training_options(written(tmp_path, MINIMAL + "intensity: {window: [3, 1]}\n"))


@pytest.mark.parametrize("missing", ["name", "network", "data", "metadata"])
def test_a_missing_setting_is_named(tmp_path: Path, missing: str) -> None:
    text = "".join(line for line in MINIMAL.splitlines(keepends=True) if not line.startswith(missing))
    with pytest.raises(OptionError, match=f"The setting “{missing}” is missing"):
        read_training_options(written(tmp_path, text))


def test_an_unknown_network_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean “drivenmorph”"):
        read_training_options(written(tmp_path, MINIMAL.replace("drivenmorph", "drivenmorf")))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError, match="holds no settings"):
        read_training_options(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"none\.yaml cannot be read: no such file"):
        read_training_options(tmp_path / "none.yaml")
    for content in (b"a: [1, 2\nb: {", b"\xff\xfe\x00a"):
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(OptionError, match=r"bad\.yaml is not valid YAML") as raised:
            read_training_options(path)
        assert "\n" not in str(raised.value)


@given(total=st.integers(1, 5000), every=st.none() | st.integers(1, 500))
def test_epochs_cover_the_steps_and_little_more(tmp_path_factory: Any, total: int, every: int | None) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = MINIMAL + f"steps: {total}\n" + (f"validate_every: {every}\n" if every else "")
    options = read_training_options(written(folder, text))
    assert total <= options.total_steps < total + options.epochs
    assert every is None or options.epoch_steps <= every


SHIPPED = sorted((MODULE / "Resources" / "Training").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    options = read_training_options(path)
    assert not set(options.validation) & set(options.test)
    assert options.metadata["description"]
    assert options.metadata["licence"]


@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.info.name)
def test_a_shipped_model_recommends_what_its_configuration_says(model: ModelFile) -> None:
    (path,) = [path for path in SHIPPED if path.stem == model.info.name]
    options = read_training_options(path)
    for name in ("configuration", "regularization", "refine", "structures_share"):
        assert getattr(model.info, name) == getattr(options, name), name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configurations_fit_the_real_data(path: Path) -> None:
    options = read_training_options(path)
    if options.data.cases is None:
        pytest.skip("it trains on synthetic images")
    data = real_data(
        {"brain": "lpba40", "hippocampus": "hippocampus", "heart": "acdc"}[options.metadata["anatomy"]]
    ).parent
    cases = read_cases(data / options.data.cases, data)
    known = {case.name for case in cases} | {case.group for case in cases}
    assert set(options.validation) | set(options.test) <= known
    supervised = [case for case in cases if case.labels or options.data.labelled is None]
    assert not options.weights.labels or (supervised and all(case.labels for case in supervised))
