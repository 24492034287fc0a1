"""One page on the server's side, without a browser: what is shown, kept and refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import UnreadableFileError
from DeepRegAttentionLib.jobs.client import WorkerClient
from DeepRegAttentionLib.jobs.messages import Event, Job
from DeepRegAttentionLib.terms.licences import Consents
from DeepRegAttentionLib.terms.palettes import FOLD
from DeepRegAttentionLib.viewer import register_tab
from DeepRegAttentionLib.viewer import stage as st
from DeepRegAttentionLib.viewer.page_process import Viewer
from DeepRegAttentionLib.viewer.worker_process import AsyncioProcess
from helpers.images import blob_image
from helpers.scene import slicer, synthetic_images, synthetic_result, voxels
from helpers.worker_client import PUPPET

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What may be read: a pair, a result of it, an image far away."""
    folder = tmp_path_factory.mktemp("allowed")
    fixed, moving = synthetic_images()
    sitk.WriteImage(fixed, str(folder / "fixed.nrrd"))
    sitk.WriteImage(moving, str(folder / "moving.nrrd"))
    far = blob_image()
    far.SetOrigin((far.GetOrigin()[0] + 400.0, *far.GetOrigin()[1:]))
    sitk.WriteImage(far, str(folder / "far.nrrd"))
    result = synthetic_result(fixed, moving)
    result.metrics["inputs"] = {role: str(folder / f"{role}.nrrd") for role in ("fixed", "moving")}
    result.metrics["model_choice"] = "It fits."
    result.save(folder / "result", ".nrrd")
    return folder


@pytest.fixture(scope="module")
def viewer(loop: asyncio.AbstractEventLoop, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    task = {"folder": str(tmp_path_factory.mktemp("session")), "secret": "s", "result": None,
            "folders": [str(folder)], "files": [], "upload_mib": 1}  # fmt: skip

    async def make() -> Viewer:
        viewer = Viewer(task)
        # As the server does when it starts: from now on, changes are heard.
        viewer._server.state.ready()
        for tag in (*st.SLICES, st.THREED):
            viewer._page.stage.view(tag).update_size(200, 160)
        return viewer

    viewer = loop.run_until_complete(make())
    yield viewer
    viewer._register_tab.close()


@pytest.fixture
def state(loop: asyncio.AbstractEventLoop, viewer: Viewer, folder: Path) -> Any:
    """The page's variables, with both images chosen."""

    async def choose() -> None:
        viewer._page.set(error="", notice="", running=False, model="auto", orientation="Axial", crosshair=False)
        for role in ("fixed", "moving"):
            viewer._inputs.choose(role, str(folder / f"{role}.nrrd"))

    loop.run_until_complete(choose())
    return viewer._page.state


def nodes(viewer: Viewer) -> dict[str, int]:
    """How many nodes of each class the scene has, but for what only keeps colours or places."""
    count: dict[str, int] = {}
    scene = viewer._page.stage.scene
    for n in range(scene.GetNumberOfNodes()):
        name = scene.GetNthNode(n).GetClassName()
        if "Color" not in name and "SubjectHierarchy" not in name:
            count[name] = count.get(name, 0) + 1
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return {**count, "places in the hierarchy": hierarchy.GetNumberOfItems()}


def centre_of(viewer: Viewer, tag: str) -> np.ndarray:
    """The RAS point in the middle of a slice view."""
    node = viewer._page.stage.view(tag).get_view_node()
    width, height = node.GetDimensions()[:2]
    return np.array(node.GetXYToRAS().MultiplyPoint((width / 2, height / 2, 0, 1))[:3])


def test_images_in_one_place_are_seen_alike(viewer: Viewer, state: Any) -> None:
    viewer._page.stage.set_offset(50.0)
    places = [centre_of(viewer, tag) for tag in st.SLICES]
    assert np.ptp(places, axis=0).max() < 0.1
    views = [viewer._page.stage.view(tag).get_view_node().GetFieldOfView() for tag in st.SLICES]
    assert np.ptp(views, axis=0).max() < 0.1
    assert state.offset["value"] == pytest.approx(viewer._page.stage.offset()["value"], abs=1e-3)


def test_an_image_far_away_is_seen_by_itself(viewer: Viewer, state: Any, folder: Path) -> None:
    viewer._inputs.choose("moving", str(folder / "far.nrrd"))
    before = centre_of(viewer, st.MOVING)
    # As R in RAS is minus the x of LPS.
    assert before[0] == pytest.approx(-431, abs=3)
    viewer._page.stage.set_offset(viewer._page.stage.offset()["value"] + 10)
    assert centre_of(viewer, st.MOVING) == pytest.approx(before)


def test_a_result_is_shown_with_the_images_that_it_was_made_of(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    before = nodes(viewer)
    for _ in range(2):
        loop.run_until_complete(viewer._results.open(folder / "result"))
        assert (state.has_result, state.result_name, state.notice) == (True, "moving to fixed", "")
        shown = [viewer._page.stage.background(tag).GetName() for tag in st.SLICES]
        assert shown[:2] == ["fixed", "moving"]
        assert shown[2].startswith("moving warped to fixed")
        assert {table["title"] for table in state.tables} == {
            "Agreement of the images",
            "Deformation",
            "Computing time",
            "Structures",
        }
        assert "–" in str(state.tables), "what could not be measured is no number"
        assert FOLD in state.histogram, "folds stand out"
        assert state.model_choice == "It fits."
        state.update({"overlay": "jacobian", "style": "grid", "comparison": "swipe"})
        state.flush()
        loop.run_until_complete(asyncio.sleep(0.1))
        state.update({"comparison": "off"})
        state.flush()
        loop.run_until_complete(asyncio.sleep(0.1))
        assert viewer._page.stage.composite(st.WARPED).GetForegroundVolumeID()
    viewer._inputs.choose("fixed", str(folder / "fixed.nrrd"))
    assert (state.has_result, state.tables, state.histogram, state.summary) == (False, [], "", "")
    assert state.model_choice == ""
    assert nodes(viewer) == before, "nothing of the results stays in the scene"


def test_the_deformation_is_drawn_on_the_warped_image_and_in_3d_alone(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(viewer._results.open(folder / "result"))
    state.style = "grid"
    state.flush()
    loop.run_until_complete(asyncio.sleep(0.1))
    display = viewer._inspection.result.extra("deformation").GetDisplayNode()
    assert display.GetVisibility()
    shown = {tag: display.IsDisplayableInView(viewer._page.stage.view(tag).get_view_node_id()) for tag in st.SLICES}
    assert shown == {st.FIXED: False, st.MOVING: False, st.WARPED: True}
    assert display.IsDisplayableInView(viewer._page.stage.view(st.THREED).get_view_node_id())


def test_the_views_go_from_one_worst_place_to_the_next(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    judged = shutil.copytree(folder / "result", tmp_path / "judged")
    metrics = json.loads((judged / "metrics.json").read_text(encoding="utf-8"))
    points = [[28.0, -60.0, 108.0], [35.0, -50.0, 115.0], [31.0, -57.0, 112.0]]
    metrics["expected_error"] = {
        "confidence": 0.9,
        "worst": [{"point_lps_mm": p, "expected_mm": 5.0 - n, "bound_mm": 9.0} for n, p in enumerate(points)],
    }
    reasons = [{"key": key, "grade": "review", "value": 0.7, "usual": 0.9, "limit": 0.8} for key in ("overlap", "seen")]
    metrics["verdict"] = {"grade": "review", "reasons": reasons, "evidence": {}}
    (judged / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    loop.run_until_complete(viewer._results.open(judged))
    assert state.verdict["title"] == "Review"
    assert len(state.verdict["others"]) == 1
    assert len(state.places) == 3
    assert "5 mm" in state.places[0]
    crosshair = viewer._page.stage._crosshair
    for place, key in ((0, "n"), (1, "n"), (2, "n"), (0, "p"), (2, "p")):
        assert state.place == place
        left, posterior, superior = points[place]
        assert crosshair.GetCrosshairRAS() == pytest.approx((-left, -posterior, superior))
        for tag in st.SLICES:
            to_slice = viewer._page.stage.view(tag).get_view_node().GetSliceToRAS()
            normal, origin = (np.array([to_slice.GetElement(row, n) for row in range(3)]) for n in (2, 3))
            assert normal @ (crosshair.GetCrosshairRAS() - origin) == pytest.approx(0, abs=1e-3)
        viewer._press(key)
    loop.run_until_complete(viewer._results.open(folder / "result"))
    assert (state.verdict, state.places) == (None, [])
    viewer._press("n")
    assert state.place == -1


# Corrections


def placed(viewer: Viewer, seen: np.ndarray, belongs: np.ndarray) -> None:
    """As two clicks do it: where something is seen in the warped image, and where it belongs; RAS mm."""
    viewer._corrections.toggle()
    line = viewer._corrections._line
    for point in (seen, belongs):
        line.AddControlPointWorld(*point)


def until_done(viewer: Viewer, loop: asyncio.AbstractEventLoop) -> None:
    async def wait() -> None:
        while viewer._corrections._works:
            await asyncio.sleep(0.02)

    loop.run_until_complete(asyncio.wait_for(wait(), 90))


def test_a_correction_changes_what_is_seen_and_is_taken_back(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "result").iterdir()}
    loop.run_until_complete(viewer._results.open(folder / "result"))
    result = viewer._inspection.result
    assert state.can_correct
    state.update({"overlay": "jacobian", "style": "grid", "comparison": "off"})
    state.flush()
    loop.run_until_complete(asyncio.sleep(0.1))
    warped = voxels(result.warped).copy()
    belongs = np.array([-31.0, 57.0, 112.0])
    seen = np.add(belongs, (3.0, -2.0, 1.0))
    goal = np.array(result.transform.GetTransformFromParent().TransformPoint(seen))
    viewer._corrections.toggle()
    assert state.correcting
    assert "warped" in state.correction_text
    viewer._corrections.give_up()
    assert (state.correcting, viewer._corrections._placed_lines()) == (False, [])
    placed(viewer, seen, belongs)
    assert not state.correcting
    until_done(viewer, loop)
    assert state.error == ""
    found = np.array(result.transform.GetTransformFromParent().TransformPoint(belongs))
    np.testing.assert_allclose(found, goal, atol=0.01)
    assert np.abs(voxels(result.warped) - warped).max() > 0.01
    assert "correction" in [item["value"] for item in state.overlays]
    assert state.overlay == "jacobian"
    (row,) = state.corrections
    assert row["cells"][0] == "3.7"
    assert row["cells"][2] == "0.0"
    assert "mm around" in row["tip"]
    (line,) = viewer._corrections._placed_lines()
    shown = {tag: line.GetDisplayNode().IsDisplayableInView(viewer._page.stage.view(tag).get_view_node_id())
             for tag in st.SLICES}  # fmt: skip
    assert shown == {st.FIXED: True, st.MOVING: False, st.WARPED: True}
    # What others may read as well stays as it is, and what is downloaded is what is seen.
    assert {path.name: path.read_bytes() for path in (folder / "result").iterdir()} == before
    assert json.loads((viewer._results._folder / "metrics.json").read_text(encoding="utf-8"))["corrections"]
    viewer._corrections.look_at(0)
    assert viewer._page.stage._crosshair.GetCrosshairRAS() == pytest.approx(belongs)
    dragged = np.add(belongs, (0.0, 1.0, 0.0))
    line.SetNthControlPointPositionWorld(1, *dragged)
    line.InvokeEvent(line.PointEndInteractionEvent)
    until_done(viewer, loop)
    found = np.array(result.transform.GetTransformFromParent().TransformPoint(dragged))
    np.testing.assert_allclose(found, goal, atol=0.01)
    assert len(state.corrections) == 1
    viewer._corrections.take_back(0)
    until_done(viewer, loop)
    np.testing.assert_array_equal(voxels(result.warped), warped)
    assert state.corrections == []
    assert "correction" not in [item["value"] for item in state.overlays]


def test_a_correction_that_cannot_be_made_is_said_and_its_line_goes(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(viewer._results.open(folder / "result"))
    placed(viewer, np.array([-31.0, 57.0, 112.0]), np.array([-431.0, 57.0, 112.0]))
    until_done(viewer, loop)
    assert "outside the fixed image" in state.error
    assert state.corrections == viewer._corrections._placed_lines() == []
    placed(viewer, *[np.array([-31.0, 57.0, 112.0])] * 2)
    assert viewer._corrections._placed_lines() == []
    before = nodes(viewer)
    viewer._corrections.toggle()
    viewer._inputs.choose("fixed", str(folder / "fixed.nrrd"))
    assert (state.can_correct, state.correcting) == (False, False)
    assert "vtkMRMLMarkupsLineNode" not in nodes(viewer)
    assert before


def test_a_damaged_result_is_refused_and_nothing_seems_under_way(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    damaged = shutil.copytree(folder / "result", tmp_path / "damaged")
    (damaged / "warped.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(UnreadableFileError):
        loop.run_until_complete(viewer._results.open(damaged))
    assert (state.has_result, state.progress_text) == (False, "")


def test_an_enlarged_view_is_fitted_to_its_own_size(viewer: Viewer, state: Any) -> None:
    shown = {}
    for width, height in ((200, 160), (400, 320)):
        viewer._page.stage.view(st.MOVING).update_size(width, height)
        viewer._page.stage.fit()
        shown[width] = viewer._page.stage.view(st.MOVING).get_view_node().GetFieldOfView()[:2]
    viewer._page.stage.view(st.MOVING).update_size(200, 160)
    viewer._page.stage.fit()
    assert shown[400] == pytest.approx(shown[200])


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "it does not say where they are"),
        ({"fixed": "/etc/passwd", "moving": "/etc/passwd"}, "outside the folders"),
        ({"fixed": "{folder}/gone.nrrd", "moving": "{folder}/gone.nrrd"}, "does not exist"),
    ],
)
def test_a_result_without_its_images_is_shown_all_the_same(
    viewer: Viewer, state: Any, folder: Path, loop: asyncio.AbstractEventLoop, inputs: dict[str, str], reason: str
) -> None:
    metrics = folder / "result" / "metrics.json"
    whole = metrics.read_text(encoding="utf-8")
    given = {role: path.format(folder=folder) for role, path in inputs.items()}
    metrics.write_text(json.dumps({**json.loads(whole), "inputs": given}), encoding="utf-8")
    try:
        loop.run_until_complete(viewer._results.open(folder / "result"))
    finally:
        metrics.write_text(whole, encoding="utf-8")
    assert "The fixed and moving images of this result are not shown" in state.notice
    assert reason in state.notice
    assert not state.can_compare
    assert viewer._page.stage.background(st.WARPED) is not None
    state.after = False
    state.flush()
    loop.run_until_complete(asyncio.sleep(0.1))
    assert viewer._page.stage.background(st.WARPED) is not None


def test_nothing_is_exchanged_under_a_running_registration(viewer: Viewer, state: Any, folder: Path) -> None:
    state.running = True
    viewer._page.telling(viewer._inputs.choose)("moving", str(folder / "far.nrrd"))
    assert "Cancel the registration" in state.error
    viewer._page.telling(viewer._inputs.forget)("fixed")
    assert state.inputs["fixed"] == "fixed.nrrd"
    assert state.inputs["moving"] == "moving.nrrd"


@pytest.mark.parametrize("model", ["/etc/secret.safetensors", "file", ""])
def test_a_model_is_one_of_the_list(viewer: Viewer, state: Any, model: str) -> None:
    """A path would have the worker open any file of the server."""
    state.model = model
    viewer._register_tab.press()
    assert state.error == "Choose one of the models in the list."
    assert not state.running


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every job that is asked for; each is refused for want of consent while there is something undecided."""
    asked: list[Job] = []

    async def events(client: WorkerClient, job: Job) -> AsyncIterator[Event]:
        asked.append(job)
        asks = job.options["model"] == "auto" and "cardiac-mr" in job.options["undecided_licences"]
        yield Event("error", code="licence", name="cardiac-mr") if asks else Event("cancelled")

    monkeypatch.setattr(register_tab, "events_of", events)
    return asked


@pytest.mark.parametrize("agreed", [True, False])
def test_a_restricted_licence_is_asked_about_once(
    viewer: Viewer, state: Any, loop: asyncio.AbstractEventLoop, jobs: list[Job], agreed: bool
) -> None:
    tab = viewer._register_tab
    tab._consents = Consents(tab._models, {}, tab._put_question)
    for press in (1, 2):
        loop.run_until_complete(pressed(tab))
        if press == 1:
            assert "cardiac-mr" in state.question
            loop.run_until_complete(pressed(tab, agreed))
        assert state.question == ""
    assert [bool(job.options["undecided_licences"]) for job in jobs] == [True, False, False]
    assert jobs[-1].options["accepted_licences"] == (["cardiac-mr"] if agreed else [])
    assert not state.error


def test_a_model_that_is_refused_by_name_is_not_used(
    viewer: Viewer, state: Any, loop: asyncio.AbstractEventLoop, jobs: list[Job]
) -> None:
    tab = viewer._register_tab
    tab._consents = Consents(tab._models, {}, tab._put_question)
    state.model = "cardiac-mr"
    loop.run_until_complete(pressed(tab))
    assert "non-commercial" in state.question
    assert not jobs
    loop.run_until_complete(pressed(tab, False))
    assert "only with your consent" in state.error
    assert not jobs
    loop.run_until_complete(pressed(tab))
    loop.run_until_complete(pressed(tab, True))
    assert jobs[0].options["model"] == "cardiac-mr"
    loop.run_until_complete(pressed(tab, True))
    assert len(jobs) == 1, "an answer to no question starts nothing"


async def pressed(tab: register_tab.RegisterTab, answer: Optional[bool] = None) -> None:
    """Press the button, or answer the question, and wait for what comes of it."""
    tab.press() if answer is None else tab.answer(answer)
    await asyncio.gather(*tab._page._tasks)


def test_an_empty_field_is_the_models_own_and_zero_is_zero(viewer: Viewer, state: Any) -> None:
    fields = ("refine", "regularization", "spacing")
    for entered, meant in (("", None), (None, None), (0, 0), (2, 2)):
        for name in fields:
            state[name] = entered
        assert [getattr(viewer._register_tab.settings, name) for name in fields] == [meant] * 3
    viewer._page.set(**dict.fromkeys(fields))


def test_a_preset_sets_what_it_says_and_no_more(viewer: Viewer, state: Any, loop: asyncio.AbstractEventLoop) -> None:
    for preset, refine in (("accurate", 150), ("fast", 0), ("balanced", None)):
        state.preset = preset
        state.flush()
        loop.run_until_complete(asyncio.sleep(0.1))
        assert state.refine == refine
    state.refine = 17
    state.flush()
    loop.run_until_complete(asyncio.sleep(0.1))
    assert state.preset == "custom"
    assert state.refine == 17


def test_what_the_worker_lacks_is_said_on_the_page_and_its_log_goes_on(
    viewer: Viewer,
    state: Any,
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tab = viewer._register_tab
    tab.close()
    lacking = (sys.executable, PUPPET, "lacking")
    monkeypatch.setattr(tab.client, "_new_process", lambda: AsyncioProcess(lacking))
    loop.run_until_complete(tab.run())
    assert (state.error, state.running) == ("PyTorch is missing.", False)
    assert capsys.readouterr().err.startswith("one\ntwo")
    assert not list((viewer._page.folder / "jobs").iterdir())
