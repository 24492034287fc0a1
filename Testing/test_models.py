"""Model files, their list, the choice of a model, and the intensity recipe."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.errors import LicenceError, ModelError, OutputError, RegistrationError
from DeepRegAttentionLib.engine.geometry import resample, to_tensor, working_grid
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.intensity import IntensityRecipe, Scale, background_value, normalise
from DeepRegAttentionLib.engine.models import files
from DeepRegAttentionLib.engine.models.choice import Consent, choose_models, foreground_extent, models_for_field
from DeepRegAttentionLib.engine.models.files import (
    find_model,
    load_model,
    register_model,
    save_model,
)
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.models.listing import LIST_NAME, ModelFile, list_models
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.resources import resource_folder
from helpers.places import MODULE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SMALL = {"channels": [4, 8], "radius": 1}
METADATA_KEY = "deepreg_attention"


def make_info(**changes) -> ModelInfo:
    values = {
        "name": "brain-mr-t1",
        "network": "drivenmorph",
        "configuration": SMALL,
        "intensity": IntensityRecipe(1, 99, None),
        "spacing": 2.0,
        "shape_multiple": 8,
        "regularization": 2.0,
        "refine": 20,
        "modality": "MR T1",
        "anatomy": "brain",
        "extent_mm": (140, 175, 130),
        "inter_subject": True,
        "description": "Skull-stripped brains of different people – T1.",
        "training_data": "Synthetic",
        "licence": "CC0-1.0",
        "citation": "Nobody",
        "accuracy": {"data": "synthetic", "split": "validation", "dice": 0.71},
        "steps": 12,
    }
    return ModelInfo(**{**values, **changes})


def make_network() -> torch.nn.Module:
    torch.manual_seed(5)
    network = build_network("drivenmorph", SMALL)
    # Away from the zeros that some layers start from, so that every weight counts in a comparison.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def model_path(tmp_path) -> Path:
    path = tmp_path / "brain.safetensors"
    save_model(make_network(), make_info(), path)
    return path


def write_file(path: Path, weights: dict, document: object) -> Path:
    """A safetensors file whose description is whatever the test wants."""
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(safetensors.torch.save(weights, {METADATA_KEY: text}))
    return path


def document_of(info: ModelInfo, **changes) -> dict:
    return {"schema": 1, **info.to_dict(), **changes}


def half_weights() -> dict:
    return {name: tensor.half() for name, tensor in make_network().state_dict().items()}


# --- model files


def test_full_precision_file_gives_back_the_same_network_and_description(tmp_path):
    network, info, path = make_network().eval(), make_info(), tmp_path / "exact.safetensors"
    save_model(network, info, path, half=False)
    loaded = load_model(path)
    assert find_model(path).info == info
    assert not loaded.training
    pair = torch.rand(2, 1, 1, 8, 10, 12)
    with torch.no_grad():
        assert torch.equal(loaded(*pair).displacement, network(*pair).displacement)


def test_half_precision_file_is_half_as_large_and_loads_as_float32(tmp_path):
    network, half, full = make_network(), tmp_path / "half.safetensors", tmp_path / "full.safetensors"
    save_model(network, make_info(), half)
    save_model(network, make_info(), full, half=False)
    payload = sum(parameter.numel() for parameter in network.parameters()) * 2
    assert full.stat().st_size - half.stat().st_size == pytest.approx(payload, rel=0.05)
    for name, tensor in load_model(half).state_dict().items():
        original = network.state_dict()[name]
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, original.half().float())


def test_saving_again_what_was_loaded_loses_nothing(model_path, tmp_path):
    again = tmp_path / "again.safetensors"
    info = replace(find_model(model_path).info, accuracy={"dice": 0.8})
    save_model(load_model(model_path), info, again)
    assert find_model(again).info.accuracy == {"dice": 0.8}
    weights = load_model(again).state_dict()
    for name, tensor in load_model(model_path).state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_any_path_with_spaces_and_accents_works(model_path, tmp_path):
    folder = tmp_path / "Modèles à moi"
    folder.mkdir()
    path = folder / "cœur 1.safetensors"
    path.write_bytes(model_path.read_bytes())
    assert find_model(str(path)).info == make_info()


def test_failed_save_leaves_the_old_file_and_no_other(model_path, monkeypatch):
    before = model_path.read_bytes()

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OutputError, match="No space left"):
        save_model(make_network(), make_info(steps=13), model_path)
    assert model_path.read_bytes() == before
    assert [file.name for file in model_path.parent.iterdir()] == [model_path.name]


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(make_network(), make_info(), tmp_path / "nowhere" / "model.safetensors")


def test_save_refuses_weights_that_do_not_fit_the_description(tmp_path):
    info = make_info(configuration={"channels": [4, 12], "radius": 1})
    with pytest.raises(ModelError, match=r"shape \[.*\], not \[.*\]"):
        save_model(make_network(), info, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_save_refuses_weights_beyond_half_precision(tmp_path):
    network = make_network()
    with torch.no_grad():
        next(network.parameters()).fill_(1e6)
    with pytest.raises(ModelError, match="not finite"):
        save_model(network, make_info(), tmp_path / "model.safetensors")
    save_model(network, make_info(), tmp_path / "model.safetensors", half=False)


def test_save_refuses_a_network_of_more_than_8_megabytes(tmp_path):
    configuration = {"channels": [8, 256], "radius": 1}
    network = build_network("drivenmorph", configuration)
    with pytest.raises(ModelError, match="may have 8 MB"):
        save_model(network, make_info(configuration=configuration), tmp_path / "m.safetensors", half=False)


def test_save_refuses_another_suffix(tmp_path):
    with pytest.raises(ModelError, match="safetensors"):
        save_model(make_network(), make_info(), tmp_path / "model.pt")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_file(model_path, kept):
    model_path.write_bytes(model_path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="damaged or no safetensors file"):
        load_model(model_path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        find_model(tmp_path / "folder.safetensors")


def test_pickle_under_our_suffix_is_refused_and_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    plain, zipped = tmp_path / "plain.safetensors", tmp_path / "zipped.safetensors"
    plain.write_bytes(pickle.dumps(Trap()))
    torch.save({"trap": Trap()}, zipped)
    for path in (plain, zipped):
        with pytest.raises(ModelError, match="damaged or no safetensors file"):
            load_model(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(safetensors.torch.save(half_weights(), metadata))
    with pytest.raises(ModelError, match="another program"):
        load_model(path)


def test_too_large_file(tmp_path):
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    with pytest.raises(ModelError, match="larger than the 8 MB"):
        find_model(path)


def test_description_that_is_no_json_or_of_another_schema(tmp_path):
    path = write_file(tmp_path / "a.safetensors", half_weights(), "{name: brain}")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_model(path)
    write_file(path, half_weights(), document_of(make_info(), schema=2))
    with pytest.raises(ModelError, match="not of schema 1"):
        load_model(path)
    write_file(path, half_weights(), ["schema", 1])
    with pytest.raises(ModelError, match="not of schema 1"):
        load_model(path)


def test_wrong_network_and_configuration(tmp_path):
    path = tmp_path / "a.safetensors"
    wrong = {
        "one of drivenmorph, adregnet; “voxelmorph”": {"network": "voxelmorph"},
        "no setting “depth”; its settings are channels, radius": {"configuration": {"depth": 3}},
        "cannot be built": {"configuration": {"channels": "many"}},
        r"cannot be built with \{'channels': \[\]\}": {"configuration": {"channels": []}},
        "cannot be built with .*-4": {"configuration": {"channels": [-4, 8]}},
    }
    for message, changes in wrong.items():
        write_file(path, half_weights(), document_of(make_info(), **changes))
        with pytest.raises(ModelError, match=message):
            load_model(path)


def test_missing_surplus_misshapen_and_infinite_weights(tmp_path):
    path, name = tmp_path / "a.safetensors", "encoder.stem.0.0.weight"
    good = half_weights()
    wrong = {
        f"lacks the weights “{name}”": {key: value for key, value in good.items() if key != name},
        "unknown weights “extra”": {**good, "extra": torch.zeros(2)},
        rf"“{name}” has the shape \[4\], not \[4, 1, 3, 3, 3\]": {**good, name: torch.zeros(4)},
        f"not finite numbers in “{name}”": {**good, name: torch.full((4, 1, 3, 3, 3), float("nan"))},
    }
    for message, weights in wrong.items():
        write_file(path, weights, document_of(make_info()))
        with pytest.raises(ModelError, match=message):
            load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Brain MR"}, "name of a model"),
        ({"name": "auto"}, "neither auto nor none"),
        ({"spacing": 0}, "spacing must be"),
        ({"spacing": "2"}, "spacing must be"),
        ({"spacing": float("nan")}, "spacing must be"),
        ({"shape_multiple": 2.5}, "shape_multiple must be"),
        ({"shape_multiple": True}, "shape_multiple must be"),
        ({"regularization": -1}, "regularization must be"),
        ({"refine": -1}, "refine must be a whole number from 0 to 10000"),
        ({"refine": 10_001}, "refine must be"),
        ({"refine": 2.0}, "refine must be"),
        ({"refine": None}, "refine must be"),
        ({"modality": None}, "modality must be a text"),
        ({"description": "two\nlines"}, "single line"),
        ({"extent_mm": [10, 20]}, "three lengths"),
        ({"extent_mm": 10}, "three lengths"),
        ({"inter_subject": 1}, "inter_subject must be true or false"),
        ({"steps": -1}, "steps must be"),
        ({"configuration": [1]}, "configuration must be an object"),
        ({"accuracy": {"dice": float("inf")}}, "accuracy must hold plain values"),
        ({"intensity": "MR"}, "intensity must be an object"),
        ({"intensity": {"gamma": 2}}, "unknown entry “gamma” in its intensity recipe"),
        ({"intensity": {"low_percentile": 99, "high_percentile": 1}}, "ascending"),
        ({"intensity": {"high_percentile": 101}}, "between 0 and 100"),
        ({"intensity": {"window": [40]}}, "window of an intensity recipe"),
        ({"intensity": {"window": 40}}, "window of an intensity recipe"),
        ({"colour": "red"}, "unknown entry “colour”"),
    ],
)
def test_each_wrong_entry_of_a_description_is_named(changes, message):
    with pytest.raises(ModelError, match=message):
        ModelInfo.from_mapping({**make_info().to_dict(), **changes})


def test_missing_entry_is_named():
    values = make_info().to_dict()
    del values["spacing"]
    with pytest.raises(ModelError, match="“spacing” is missing"):
        ModelInfo.from_mapping(values)


def test_description_survives_json_whatever_the_sequence_types():
    info = make_info(
        configuration={"channels": (4, 8), "radius": 1}, intensity=IntensityRecipe(window=(-1000.0, 500.0))
    )
    assert ModelInfo.from_mapping(json.loads(json.dumps(info.to_dict()))) == info


def test_unknown_network():
    with pytest.raises(ModelError, match="no network “unet”; the networks are drivenmorph, adregnet"):
        build_network("unet", {})


def test_the_list_of_models_needs_neither_torch_nor_safetensors():
    code = "import sys; from DeepRegAttentionLib.engine.models.listing import list_models; list_models(); "
    code += "print('torch' in sys.modules or 'safetensors' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        cwd=MODULE,
        check=True,
    )
    assert done.stdout.strip() == "False"


# --- the list


def test_registered_model_is_listed_found_and_loaded(model_path, tmp_path):
    folder = tmp_path / "Models"
    folder.mkdir()
    registered = register_model(model_path, folder)
    assert registered.path == folder / "brain.safetensors"
    assert list_models(folder) == [registered]
    assert find_model("brain-mr-t1", folder) == registered
    assert load_model(registered).state_dict().keys() == make_network().state_dict().keys()


def test_registering_again_replaces_the_entry_in_its_place(model_path, tmp_path):
    other = tmp_path / "heart.safetensors"
    save_model(make_network(), make_info(name="heart-mr"), other)
    first = register_model(model_path, tmp_path)
    register_model(other, tmp_path)
    save_model(make_network(), make_info(version="2"), model_path)
    register_model(model_path, tmp_path)
    listed = list_models(tmp_path)
    assert [(m.info.name, m.info.version) for m in listed] == [("brain-mr-t1", "2"), ("heart-mr", "1")]
    assert listed[0].sha256 != first.sha256


def test_damaged_model_is_not_registered(model_path, tmp_path):
    model_path.write_bytes(model_path.read_bytes()[:-2])
    with pytest.raises(ModelError, match="damaged"):
        register_model(model_path, tmp_path)
    assert not (tmp_path / LIST_NAME).exists()


def test_hash_mismatch(model_path, tmp_path):
    listed = register_model(model_path, tmp_path)
    content = bytearray(model_path.read_bytes())
    content[-1] ^= 1
    model_path.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        load_model(listed)
    # The path alone promises nothing, and one bit of one weight does no harm.
    load_model(model_path)


def test_listed_model_whose_file_is_gone(model_path, tmp_path):
    listed = register_model(model_path, tmp_path)
    model_path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(listed)


def test_unknown_name_gets_the_names_and_a_suggestion(model_path, tmp_path):
    register_model(model_path, tmp_path)
    with pytest.raises(ModelError, match=r"did you mean “brain-mr-t1”\?\); the models are brain-mr-t1"):
        find_model("brain-mr-t2", tmp_path)
    with pytest.raises(ModelError, match="no model “xyz”; the models are brain-mr-t1"):
        find_model("xyz", tmp_path)


def test_name_where_no_models_are_installed(tmp_path):
    (tmp_path / LIST_NAME).write_text('{"schema": 1, "models": []}', encoding="utf-8")
    assert list_models(tmp_path) == []
    with pytest.raises(ModelError, match="no models are installed"):
        find_model("brain", tmp_path)


def test_damaged_lists(model_path, tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        list_models(tmp_path)
    register_model(model_path, tmp_path)
    path = tmp_path / LIST_NAME
    entry = json.loads(path.read_text(encoding="utf-8"))["models"][0]
    wrong = {
        "not valid JSON": "{",
        "not of schema 1": json.dumps([entry]),
        "models must be a list": json.dumps({"schema": 1, "models": {}}),
        "must be an object": json.dumps({"schema": 1, "models": ["brain"]}),
        "more than once": json.dumps({"schema": 1, "models": [entry, entry]}),
        "name of a .safetensors file": json.dumps({"schema": 1, "models": [{**entry, "file": "../a.safetensors"}]}),
        "64 hexadecimal digits": json.dumps({"schema": 1, "models": [{**entry, "sha256": "abc"}]}),
        "spacing must be": json.dumps({"schema": 1, "models": [{**entry, "spacing": -1}]}),
    }
    for message, text in wrong.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            list_models(tmp_path)


def test_every_shipped_model_loads_and_says_what_the_list_says():
    folder = resource_folder("Models")
    listed = list_models()
    for model in listed:
        load_model(model)
        # The list may add to what was written with the weights.
        added = {name: getattr(model.info, name) for name in ("restriction", "background")}
        assert replace(find_model(model.path).info, **added) == model.info
        assert all((model.info.training_data, model.info.licence, model.info.description, model.info.accuracy))
    assert {model.path for model in listed} == set(folder.glob("*.safetensors"))


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.info.name)
def test_no_shipped_model_moves_an_image_that_is_given_twice(model, noise):
    brain = read_image(resource_folder("Samples") / "icbm152-t1.nii.gz")
    spacing, scale = model.info.spacing or 2.0, Scale.of(sitk.GetArrayViewFromImage(brain), model.info.intensity)
    if model.info.anatomy not in ("brain", "any"):
        # Something of the size that the model is made for.
        side = int(40 * spacing)
        brain = sitk.RegionOfInterest(brain, [side] * 3, [(size - side) // 2 for size in brain.GetSize()])
    image = to_tensor(resample(brain, working_grid(brain, spacing, model.info.shape_multiple), change=scale))
    shown = image > 0.02
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        displacement = load_model(model)(image, image + noise * random * shown).displacement
    moved = spacing * displacement.norm(dim=1, keepdim=True)[shown]
    assert float(moved.mean()) <= 0.1
    assert np.quantile(moved.numpy(), 0.99) <= 0.3


def test_missing_resources_are_named():
    with pytest.raises(RegistrationError, match="Resources/Cupboard is missing"):
        resource_folder("Cupboard")


# --- the choice


def listed(**changes) -> ModelFile:
    return ModelFile(make_info(**changes), Path("a.safetensors"), "0" * 64)


def oblique_box(extent_lps, lowest: float = 0.0, order=(0, 1, 2), padding: int = 6) -> sitk.Image:
    """An ellipsoid of known extent in an empty volume: anisotropic, off-centre, tilted by 15 degrees.

    Voxel axis n lies near the patient axis `order[n]`.
    """
    spacing = (1.5, 2.0, 3.0)
    size = [round(extent_lps[order[n]] / spacing[n]) for n in range(3)]
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in reversed(size)], indexing="ij")
    inside = sum(grid**2 for grid in grids) <= 1.2
    texture = np.random.default_rng(1).uniform(50, 150, inside.shape)
    array = np.pad(np.where(inside, texture, lowest), padding, constant_values=lowest)
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(spacing)
    image.SetOrigin((-40.0, 77.0, 12.0))
    tilt = sitk.Euler3DTransform()
    tilt.SetRotation(*np.deg2rad((15.0, -10.0, 12.0)))
    direction = np.array(tilt.GetMatrix()).reshape(3, 3) @ np.eye(3)[:, list(order)]
    image.SetDirection(direction.flatten().tolist())
    return image


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_extent_follows_the_patient_axes_and_ignores_padding(order):
    for padding in (1, 12):
        extent = foreground_extent(oblique_box((120.0, 180.0, 90.0), order=order, padding=padding))
        assert extent == pytest.approx((120, 180, 90), abs=3)


def likeliest(fixed: sitk.Image, moving: sitk.Image, models, *consent):
    return choose_models(fixed, moving, models, *consent)[0]


def cut_out(extent_lps, slices: float = 3.0) -> sitk.Image:
    """Noise in tissue up to every face: nothing of it is background."""
    size = [round(extent_lps[n] / spacing) for n, spacing in enumerate((1.5, 2.0, slices))]
    image = sitk.GetImageFromArray(np.random.default_rng(2).uniform(50, 150, size[::-1]).astype(np.float32))
    image.SetSpacing((1.5, 2.0, slices))
    return image


def test_choice_takes_the_model_of_the_right_size():
    brain, heart = listed(), listed(name="heart-mr", anatomy="heart", extent_mm=(120, 110, 80))
    image = oblique_box((135.0, 170.0, 140.0))
    choices = choose_models(image, oblique_box((150.0, 180.0, 130.0), order=(1, 2, 0)), [heart, brain])
    assert [choice.model for choice in choices] == [brain, None]
    assert choices[0].reason.startswith("brain-mr-t1 fits: the objects span")
    assert likeliest(*[oblique_box((100.0, 100.0, 90.0))] * 2, [brain, heart]).model is heart


def test_the_next_best_model_is_one_of_another_organ_and_the_last_is_none():
    models = [
        listed(name=f"{organ}-{n}", anatomy=organ, extent_mm=(120 + distance + n, 120, 120))
        for distance, organ in ((0, "heart"), (10, "liver"), (20, "knee"))
        for n in (1, 2)
    ]
    image = oblique_box((120.0, 120.0, 120.0))
    choices = choose_models(image, image, models)
    assert [choice.model and choice.model.info.name for choice in choices] == ["heart-1", "liver-1", None]


def test_the_likeliest_comes_first_also_where_its_organ_has_the_least_likely_model_too():
    sizes = {"heart-1": ("heart", 121), "liver": ("liver", 130), "heart-2": ("heart", 140)}
    models = [listed(name=name, anatomy=organ, extent_mm=(x, 120, 120)) for name, (organ, x) in sizes.items()]
    image = oblique_box((120.0, 120.0, 120.0))
    choices = choose_models(image, image, models)
    assert [choice.model and choice.model.info.name for choice in choices] == ["heart-1", "liver", None]


def test_what_is_cut_out_suits_no_model_of_whole_objects():
    brain = listed(background=True)
    whole, cut = oblique_box((140.0, 175.0, 130.0)), cut_out((140.0, 175.0, 130.0))
    assert likeliest(whole, whole, [brain]).model is brain
    for fixed, moving in ((whole, cut), (cut, whole), (cut, cut)):
        choice = likeliest(fixed, moving, [brain])
        assert choice.model is None
        assert "brain-mr-t1, was trained on 140 x 175 x 130 mm in empty surroundings" in choice.reason


def test_an_organ_may_lie_anywhere_in_a_larger_field_of_view():
    heart = listed(name="heart-mr", extent_mm=(192, 192, 95), background=False)
    full = cut_out((295.0, 350.0, 100.0), 10.0)
    choice = likeliest(full, full, [heart])
    assert choice.model is heart
    assert "the images show 29" in choice.reason
    assert "192 x 192 x 95 mm cut out of larger images" in choice.reason
    assert likeliest(*[cut_out((500.0, 350.0, 100.0), 10.0)] * 2, [heart]).model is None
    assert likeliest(*[cut_out((100.0, 350.0, 100.0), 10.0)] * 2, [heart]).model is None
    # A whole object of that size is another one.
    assert likeliest(*[oblique_box((295.0, 350.0, 100.0))] * 2, [heart]).model is None
    # Where nothing is known of the surroundings, the field of view counts as the object.
    assert likeliest(full, full, [listed(extent_mm=(192, 192, 95))]).model is None


def test_a_model_for_any_size_is_never_chosen_unasked():
    anything = listed(name="any-contrast", modality="any", extent_mm=None, spacing=None)
    image = oblique_box((140.0, 175.0, 130.0))
    assert likeliest(image, image, [anything, listed()]).model.info.name == "brain-mr-t1"
    assert likeliest(image, image, [anything]).model is None
    assert models_for_field((140.0, 175.0, 130.0), [anything]) == []


def test_before_the_images_are_known_every_model_counts_that_has_room():
    brain = listed(name="brain", extent_mm=(140, 175, 130))
    assert models_for_field((130.0, 140.0, 175.0), [brain]) == [brain]
    assert models_for_field((300.0, 250.0, 400.0), [brain]) == [brain]
    assert models_for_field((70.0, 140.0, 175.0), [brain]) == []
    assert models_for_field((300.0, 358.0, 358.0), [brain]) == []


def test_no_choice_when_either_image_is_of_another_size():
    brain, crop = oblique_box((140.0, 175.0, 130.0)), oblique_box((36.0, 50.0, 36.0))
    for fixed, moving in ((brain, crop), (crop, brain), (crop, crop)):
        choice = likeliest(fixed, moving, [listed()])
        assert choice.model is None
        assert "36 x 50 x 36 mm" in choice.reason
        assert "brain-mr-t1, was trained on 140 x 175 x 130 mm" in choice.reason


def test_choice_tells_hounsfield_units_from_the_rest():
    mr, ct = listed(), listed(name="chest-ct", modality="CT")
    brain, chest = (oblique_box((140.0, 175.0, 130.0), lowest) for lowest in (0.0, -1000.0))
    assert likeliest(brain, brain, [ct, mr]).model is mr
    assert likeliest(chest, chest, [mr, ct]).model is ct
    assert "other is not" in likeliest(brain, chest, [mr, ct]).reason
    assert likeliest(brain, chest, [mr, ct]).model is None
    assert choose_models(chest, chest, [mr]) == [(None, "There is no model for images CT.")]
    assert likeliest(brain, brain, []).model is None


RESTRICTED = {"name": "heart-mr", "anatomy": "heart", "extent_mm": (120, 110, 80), "restriction": "Not for sale."}


def test_a_restricted_model_is_chosen_only_with_consent():
    heart, brain = listed(**RESTRICTED), listed()
    image = oblique_box((125.0, 120.0, 90.0))
    choice = likeliest(image, image, [heart, brain])
    assert choice.model is brain
    assert "brain-mr-t1 fits" in choice.reason
    assert choice.reason.endswith("heart-mr would fit better, but asks for consent first: name it, or accept its "
                                  "licence. Not for sale.")  # fmt: skip
    agreed = choose_models(image, image, [heart, brain], Consent(accepted=("heart-mr",)))
    assert [choice.model for choice in agreed] == [heart, brain, None]
    assert not any("consent" in choice.reason for choice in agreed)


def test_without_consent_and_another_model_there_is_none():
    image = oblique_box((100.0, 100.0, 90.0))
    for others in ([], [listed(extent_mm=(900, 900, 900))]):
        choice = likeliest(image, image, [listed(**RESTRICTED), *others], Consent(accepted=("another",)))
        assert choice.model is None
        assert "No model fits" in choice.reason
        assert "heart-mr would fit better" in choice.reason


def test_who_can_be_asked_is_asked_about_the_model_that_fits_best_alone():
    heart, brain = listed(**RESTRICTED), listed()
    consent = Consent(undecided=("heart-mr",))
    image = oblique_box((120.0, 110.0, 80.0))
    with pytest.raises(LicenceError, match=r"heart-mr suits these images, but asks for consent first\. Not") as raised:
        choose_models(image, image, [brain, heart], consent)
    assert raised.value.model == "heart-mr"
    image = oblique_box((140.0, 175.0, 130.0))
    assert choose_models(image, image, [heart, brain], consent) == choose_models(image, image, [brain])


def test_weights_for_non_commercial_use_ask_for_consent():
    for model in list_models():
        assert bool(model.info.restriction) == ("non-commercial" in model.info.licence)


def test_what_the_list_adds_outlives_a_file_that_says_nothing_of_it(model_path, tmp_path):
    register_model(model_path, tmp_path)
    path = tmp_path / LIST_NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    document["models"][0].update(restriction="Not for sale.", background=False)
    path.write_text(json.dumps(document), encoding="utf-8")
    assert register_model(model_path, tmp_path).info.restriction == "Not for sale."
    assert list_models(tmp_path)[0].info.restriction == "Not for sale."
    assert list_models(tmp_path)[0].info.background is False
    save_model(make_network(), make_info(restriction="Ask first.", background=True), model_path)
    info = register_model(model_path, tmp_path).info
    assert (info.restriction, info.background) == ("Ask first.", True)


# --- the intensity recipe

volumes = arrays(
    np.float64,
    st.tuples(*[st.integers(2, 6)] * 3),
    elements=st.integers(0, 40).map(float),
)
recipes = st.sampled_from([IntensityRecipe(), IntensityRecipe(0, 100), IntensityRecipe(5, 90)])


@settings(max_examples=80, deadline=None)
@given(volumes, recipes, st.floats(0.01, 100), st.floats(-1000, 1000))
def test_scaling_and_shifting_intensities_changes_nothing(volume, recipe, scale, offset):
    np.testing.assert_allclose(normalise(volume * scale + offset, recipe), normalise(volume, recipe), atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(volumes, recipes, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_padding_with_background_changes_nothing(volume, recipe, margins):
    background = background_value(volume)
    padded = np.pad(volume, margins, constant_values=background)
    assert background_value(padded) == background
    inner = tuple(slice(low, low + n) for (low, _), n in zip(margins, volume.shape))
    np.testing.assert_array_equal(normalise(padded, recipe)[inner], normalise(volume, recipe))


@settings(max_examples=40, deadline=None)
@given(volumes, recipes)
def test_result_is_float32_from_0_to_1_and_keeps_the_order(volume, recipe):
    result = normalise(volume, recipe)
    assert result.dtype == np.float32
    assert result.shape == volume.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert (np.diff(result.ravel()[np.argsort(volume, axis=None)]) >= 0).all()


def test_percentiles_are_of_the_object_alone():
    array = np.zeros((30, 30, 30), np.int16)
    array[10:20, 10:20, 10:20] = np.arange(1, 1001).reshape(10, 10, 10)
    result = normalise(array, IntensityRecipe(10, 90))
    assert result[array <= 100].max() == 0
    assert result[array >= 901].min() == 1
    assert result[array == 500][0] == pytest.approx(0.5, abs=2e-3)


def test_a_few_spikes_do_not_take_the_range():
    rng = np.random.default_rng(0)
    array = rng.uniform(100, 200, (40, 40, 40))
    spiked = array.copy()
    spiked[20, 20, :40:4] = 1e6
    calm, shaken = (normalise(a, IntensityRecipe()) for a in (array, spiked))
    usual = spiked < 1e6
    assert np.abs(calm - shaken)[usual].max() < 0.01


def test_a_window_is_taken_as_it_is():
    array = np.array([[[-2000, -1000, -250, 500, 3000]]], np.int16)
    result = normalise(array, IntensityRecipe(window=(-1000, 500)))
    np.testing.assert_allclose(result.ravel(), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_background_below_between_and_above_the_object():
    rng = np.random.default_rng(2)
    core = rng.normal(0, 1, (12, 12, 12))
    for value in (-9.0, 0.0, 9.0):
        assert background_value(np.pad(core, 3, constant_values=value)) == value
    assert background_value(core) == core.min()


def test_label_images_and_constant_images_are_harmless():
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:6, 2:6, 2:6] = 7
    np.testing.assert_array_equal(normalise(mask, IntensityRecipe()), mask / 7)
    assert not normalise(np.full((4, 4, 4), 3.0), IntensityRecipe()).any()


def test_small_contrast_on_a_large_offset_survives():
    ramp = np.linspace(0, 1, 1000).reshape(10, 10, 10)
    shifted = normalise(ramp + 1e8, IntensityRecipe(0, 100))
    assert np.abs(shifted - normalise(ramp, IntensityRecipe(0, 100))).max() < 1e-5


def test_the_input_is_left_alone_and_views_of_images_are_taken(make_image):
    image = make_image()
    before = sitk.GetArrayFromImage(image)
    normalise(sitk.GetArrayViewFromImage(image), IntensityRecipe())
    normalise(before, IntensityRecipe())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before)
