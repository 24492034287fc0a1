"""What the page looks like: views in the middle, a drawer of tools beside them, one bar above."""

from __future__ import annotations

from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v

from ..terms.choices import (
    Choice,
    comparison_choices,
    deformation_choices,
    device_choices,
    prealign_choices,
    similarity_choices,
)
from ..terms.inputs import CALLED
from . import stage as st
from .inputs import EXTRAS, IMAGES
from .register_tab import entries

DENSE = {"density": "compact", "hide_details": True}
FIELD = {**DENSE, "variant": "outlined", "classes": "mb-2"}

_TITLES = {st.FIXED: "Fixed", st.MOVING: "Moving", st.WARPED: "{{ third_title }}", st.THREED: "3D"}


def build(server: Any, upload_mib: int) -> None:
    """Make the page's layout on a server whose state is complete."""
    server.state.setdefault("tab", "register")
    server.state.setdefault("uploading", None)
    server.state.trame__title = "DeepRegAttention"
    server.state.trame__favicon = "data:,"
    with VAppLayout(server, theme=("theme",)) as page:
        _bar()
        _drawer(upload_mib)
        _middle()
        _browser()
        _question()
    page.root.theme = ("theme",)


# Above


def _bar() -> None:
    with v.VAppBar(density="compact", flat=True, border=True):
        html.Span("DeepRegAttention", classes="text-subtitle-1 font-weight-medium ml-4 mr-6")
        html.Span("{{ result_name }}", id="result-name", classes="text-body-2 picked", style="max-width: 34vw")
        v.VSpacer()
        with v.VBtnToggle(v_model=("orientation",), mandatory=True, density="compact", classes="mr-2"):
            for orientation in st.ORIENTATIONS:
                v.VBtn(orientation, value=orientation, size="small", id=f"orientation-{orientation.lower()}")
        _switch("mdi-crosshairs", "crosshair", "Crosshair: click in a slice, or move with Shift held")
        _switch("mdi-contrast-circle", "adjusting", "Drag in a slice to change brightness and contrast")
        _button("mdi-fit-to-page-outline", "trigger('fit')", "Fit the views to the images (F)")
        _button("mdi-theme-light-dark", "theme = theme === 'dark' ? 'light' : 'dark'", "Dark or light", "theme")


def _switch(icon: str, name: str, tooltip: str) -> None:
    with v.VBtn(icon=icon, click=f"{name} = !{name}", active=(name,), size="small", id=name):
        v.VIcon(icon)
        v.VTooltip(tooltip, activator="parent", location="bottom")


def _button(icon: str, click: str, tooltip: str, id: str = "") -> None:
    with v.VBtn(icon=icon, click=click, size="small", **({"id": id} if id else {})):
        v.VIcon(icon)
        v.VTooltip(tooltip, activator="parent", location="bottom")


# Beside


def _drawer(upload_mib: int) -> None:
    with v.VNavigationDrawer(permanent=True, width=340, disable_resize_watcher=True):
        with v.VTabs(v_model=("tab",), grow=True, density="compact"):
            for tab in ("Register", "Inspect", "Measures"):
                v.VTab(tab, value=tab.lower(), id=f"tab-{tab.lower()}", size="small")
        with html.Div(classes="pa-3"):
            _messages()
            with html.Div(v_show=("tab === 'register'",)):
                _register_tab(upload_mib)
            with html.Div(v_show=("tab === 'inspect'",)):
                _inspect_tab()
            with html.Div(v_show=("tab === 'measures'",)):
                _measures_tab()


def _messages() -> None:
    """The one place for what went wrong, and what is worth knowing."""
    v.VAlert(
        v_if=("error",), text=("error",), type="error", density="compact", closable=True, classes="mb-2", id="error",
        click_close="error = ''",
    )  # fmt: skip
    v.VAlert(
        v_if=("notice",), text=("notice",), type="info", density="compact", closable=True, classes="mb-2", id="notice",
        click_close="notice = ''", variant="tonal",
    )  # fmt: skip


def _register_tab(upload_mib: int) -> None:
    for role in IMAGES:
        _picker(role, role.capitalize(), upload_mib)
    v.VDivider(classes="mt-2 mb-4")
    v.VSelect(label="Speed and quality", v_model=("preset",), items=("presets",), id="preset", **FIELD)
    v.VSelect(label="Model", v_model=("model",), items=("models",), id="model", **FIELD)
    html.Div("{{ model_text }}", classes="text-caption mb-2", style="white-space: pre-line")
    v.VBtn(
        "{{ button }}", click="trigger('register')", disabled=("!ready || cancelling",), block=True, id="register",
        color=("!ready || cancelling ? undefined : running ? 'error' : 'primary'",), variant="flat",
    )  # fmt: skip
    _progress()
    with v.VExpansionPanels(classes="mt-3", variant="accordion"):
        with _panel("Masks and structures"):
            for role in EXTRAS:
                _picker(role, CALLED[role].capitalize(), upload_mib)
        with _panel("Advanced"):
            _advanced()


def _progress() -> None:
    with html.Div(v_if=("running || progress_text",), classes="mt-2"):
        v.VProgressLinear(model_value=("progress",), height=6, rounded=True, color="primary")
        html.Div("{{ progress_text }}", classes="text-caption", id="progress")


def _panel(title: str) -> Any:
    with v.VExpansionPanel():
        v.VExpansionPanelTitle(title, classes="text-body-2 py-2", style="min-height: 36px")
        return v.VExpansionPanelText()


def _picker(role: str, title: str, upload_mib: int) -> None:
    """An image: its name, and where to take it from."""
    with html.Div(classes="d-flex align-center mb-1", style="gap: 2px"):
        with html.Div(classes="flex-grow-1", style="min-width: 0"):
            html.Div(title, classes="text-caption text-medium-emphasis")
            html.Div(f"{{{{ inputs['{role}'] || 'None chosen' }}}}", classes="text-body-2 picked", id=f"chosen-{role}")
        _upload(role, upload_mib)
        _small_button("mdi-folder-outline", f"trigger('browse', ['{role}'])", "Choose on the server", f"browse-{role}",
                      disabled=("running",))  # fmt: skip
        _small_button("mdi-close", f"trigger('forget', ['{role}'])", "Use none", f"forget-{role}",
                      disabled=(f"!inputs['{role}'] || running",))  # fmt: skip
    v.VProgressLinear(
        v_if=(f"uploading && uploading.role === '{role}'",), model_value=("100 * uploading.share",), height=3
    )


def _upload(role: str, upload_mib: int) -> None:
    with html.Label(style="cursor: pointer"):
        html.Input(
            type="file", multiple=True, style="display: none", id=f"upload-{role}", disabled=("running",),
            raw_attrs=[f'data-upload="{role}"', f'data-limit="{upload_mib * 2**20}"'],
        )  # fmt: skip
        v.VIcon("mdi-upload", size="small", disabled=("running",))
        v.VTooltip("Upload from this computer", activator="parent", location="bottom")


def _small_button(icon: str, click: str, tooltip: str, id: str, **more: Any) -> None:
    with v.VBtn(icon=icon, click=click, size="x-small", variant="text", id=id, **more):
        v.VIcon(icon, size="small")
        v.VTooltip(tooltip, activator="parent", location="bottom")


def _advanced() -> None:
    own = {"placeholder": "the model’s own", "persistent_placeholder": True, "type": "number", "min": 0}
    _list("Linear alignment first", "prealign", prealign_choices())
    v.VTextField(label="Steps of refinement", v_model_number=("refine",), id="refine", **own, **FIELD)
    _list("Similarity in the refinement", "similarity", similarity_choices(), disabled=("!enabled.similarity",))
    v.VTextField(
        label="Smoothness", v_model_number=("regularization",), step=0.1, disabled=("!enabled.regularization",),
        id="regularization", **own, **FIELD,
    )  # fmt: skip
    v.VTextField(label="Working grid in mm", v_model_number=("spacing",), step=0.5, id="spacing", **own, **FIELD)
    _list("Device", "device", device_choices())
    html.Div("{{ device_text }}", classes="text-caption", id="device")


def _list(label: str, name: str, choices: list[Choice], **more: Any) -> None:
    """A setting that is chosen from a list."""
    v.VSelect(label=label, v_model=(name,), items=(f"{name}_choices", entries(choices)), **more, **FIELD)


def _inspect_tab() -> None:
    _verdict()
    html.Div("{{ summary }}", classes="text-caption mb-1", id="summary")
    html.Div("Nothing to inspect yet: register two images, or open a result.", v_if=("!has_result",),
             classes="text-body-2")  # fmt: skip
    with html.Div(v_if=("has_result",)):
        _correction_tools()
        _overlay_tools()
        _deformation_tools()
        _comparison_tools()
    _windows()


def _verdict() -> None:
    """The grade, why, and the way through the worst places."""
    with html.Div(v_if=("verdict",), classes="mb-2", id="verdict"):
        html.Span("{{ verdict.title }}", classes="grade", style=("{ background: verdict.colour }",))
        html.Span("{{ verdict.sentence }}", classes="text-body-2")
        html.Div("{{ reason }}", v_for="reason in verdict.others", key="reason", classes="text-caption mt-1")
    with html.Div(v_if=("places.length",), classes="d-flex align-center mb-2", style="gap: 4px", id="places"):
        _step_button("mdi-chevron-left", -1, "The worse place before (P)", "place-before")
        with html.Div(classes="flex-grow-1 text-caption", style="min-width: 0"):
            html.Div("{{ place < 0 ? 'Worst places' : `Worst place ${place + 1} of ${places.length}` }}",
                     classes="text-medium-emphasis")  # fmt: skip
            html.Div("{{ places[place] }}", id="place")
        _step_button("mdi-chevron-right", 1, "The next worst place (N)", "place-after")


def _step_button(icon: str, step: int, tooltip: str, id: str) -> None:
    with v.VBtn(icon=True, click=f"trigger('place', [{step}])", size="x-small", variant="tonal", id=id):
        v.VIcon(icon, size="x-large")
        v.VTooltip(tooltip, activator="parent", location="bottom")


def _correction_tools() -> None:
    """Two clicks put a place right; every correction can be taken back."""
    with html.Div(v_if=("can_correct",), id="corrections"):
        with v.VBtn(
            "{{ correcting ? 'Give up (Esc)' : 'Correct here (C)' }}", click="trigger('correct')", size="small",
            block=True, id="correct", color=("correcting ? 'warning' : undefined",),
        ):  # fmt: skip
            v.VTooltip("Put right what you see to be wrong, in this place or another", activator="parent",
                       location="bottom")  # fmt: skip
        html.Div("{{ correction_text }}", v_if=("correction_text",), classes="text-caption mt-1", id="correction-text")
        with html.Table(v_if=("corrections.length",), classes="measures mt-1", style="width: 100%"):
            with html.Thead(), html.Tr():
                for title in ("", "Moved", "Off before", "Now", ""):
                    html.Th(title, classes="number")
            with html.Tbody(), html.Tr(v_for="(row, n) in corrections", key="n", title=("row.tip",)):
                html.Td("{{ n + 1 }}")
                html.Td("{{ cell }} mm", v_for="(cell, c) in row.cells", key="c", classes="number picked",
                        click="trigger('see_correction', [n])")  # fmt: skip
                with html.Td(classes="number"), v.VBtn(icon=True, click="trigger('take_back', [n])", size="x-small",
                                                       variant="text", id=("'take-back-' + (n + 1)",)):  # fmt: skip
                    v.VIcon("mdi-undo", size="small")
                    v.VTooltip("Take this correction back", activator="parent", location="bottom")


def _overlay_tools() -> None:
    html.Div("Overlay", classes="section")
    v.VSelect(v_model=("overlay",), items=("overlays",), disabled=("comparison !== 'off'",), id="overlay", **FIELD)
    with html.Div(v_if=("overlay !== 'none'",)):
        html.Div("{{ overlay_help }}", classes="text-caption mb-1")
        _slider("Opacity", "opacity", 0, 1, 0.05)
        v.VRangeSlider(
            label="Show from, to", v_model=("threshold",), min=("threshold_ends.min",), max=("threshold_ends.max",),
            step=("threshold_ends.step",), thumb_label=True, id="threshold", **DENSE,
        )  # fmt: skip
        v.VSwitch(label="Legend", v_model=("legend",), color="primary", **DENSE)


def _deformation_tools() -> None:
    html.Div("Deformation", classes="section")
    v.VSelect(v_model=("style",), items=("styles", entries(deformation_choices())), id="style", **FIELD)
    with html.Div(v_if=("style !== 'none' || force",)):
        _slider("Spacing, mm", "grid_spacing", 2, 40, 1)
        _slider("Scale, %", "scale", 25, 400, 25)
        v.VSwitch(label="Also in 3D", v_model=("deformation_3d",), color="primary", **DENSE)
    v.VSwitch(label="Driving force as arrows", v_model=("force",), color="primary", id="force",
              v_if=("overlays.some((o) => o.value.startsWith('driving_force'))",), **DENSE)  # fmt: skip


def _comparison_tools() -> None:
    html.Div("Third view", classes="section")
    shown = entries([Choice("off", "Warped"), *comparison_choices()])
    v.VSelect(v_model=("comparison",), items=("comparisons", shown), disabled=("!can_compare",), id="comparison",
              **FIELD)  # fmt: skip
    for mode, parts in {
        "blend": (("Opacity", "blend", 0, 1, 0.05),),
        "swipe": (("Place", "swipe", 0, 1, 0.02),),
        "checkerboard": (("Tiles", "tiles", 2, 24, 1),),
    }.items():
        with html.Div(v_if=(f"comparison === '{mode}'",)):
            for part in parts:
                _slider(*part)
            if mode == "swipe":
                v.VSelect(v_model=("swipe_axis",), items=("swipe_axes",), **FIELD)
    v.VBtn("{{ after ? 'After' : 'Before' }} (B)", click="after = !after", disabled=("!can_compare",), size="small",
           block=True, id="before-after", color=("after ? undefined : 'warning'",))  # fmt: skip


def _windows() -> None:
    with html.Div(v_if=("windows.length",)):
        html.Div("Brightness", classes="section")
        v.VRangeSlider(
            v_for="w in windows", key="w.id", label=("w.title",), v_model="w.value", min=("w.min",), max=("w.max",),
            step=("w.step",), end="trigger('window', [w.id, ...w.value])", **DENSE,
        )  # fmt: skip


def _slider(label: str, name: str, low: float, high: float, step: float) -> None:
    v.VSlider(
        label=label, v_model=(name,), min=low, max=high, step=step, thumb_label=True, id=f"slider-{name}", **DENSE
    )


def _measures_tab() -> None:
    html.Div("Nothing was measured yet.", v_if=("!tables.length",), classes="text-body-2")
    with html.Div(v_if=("model_choice",)):
        html.Div("Model", classes="section")
        html.Div("{{ model_choice }}", classes="text-caption", id="model-choice")
    with html.Div(v_if=("histogram",)):
        html.Div("Jacobian (1 keeps the volume; folds are yellow)", classes="section")
        html.Div(v_html=("histogram",), id="histogram")
    with html.Div(v_for="table in tables", key="table.title"):
        html.Div("{{ table.title }}", classes="section")
        with html.Table(classes="measures", style="width: 100%; border-collapse: collapse"):
            with html.Thead(), html.Tr():
                html.Th("{{ name }}", v_for="name in table.head", key="name", classes="number")
            with html.Tbody(), html.Tr(v_for="(row, r) in table.rows", key="r"):
                html.Td("{{ cell }}", v_for="(cell, c) in row", key="c", classes=("c ? 'number' : ''",))
    _downloads()


def _downloads() -> None:
    with html.Div(v_if=("has_result",)):
        html.Div("Download", classes="section")
        for kind, title in (("results", "Result folder (.zip)"), ("scene", "Scene for 3D Slicer (.mrb)")):
            v.VBtn(title, click=f"trigger('prepare', ['{kind}'])", disabled=("preparing",), size="small", block=True,
                   variant="tonal", classes="mb-2", id=f"prepare-{kind}")  # fmt: skip
        v.VProgressLinear(v_if=("preparing",), indeterminate=True)
        v.VBtn("Save {{ download }}", v_if=("download && !preparing",), href=("'download/' + download",), block=True,
               raw_attrs=["download"], size="small", color="primary", variant="flat", id="download")  # fmt: skip


# In the middle


def _middle() -> None:
    with v.VMain(style="height: 100vh"), html.Div(classes="stage"):
        with html.Div(classes="stage-views"), html.Div(classes="views"):
            for tag in (*st.SLICES, st.THREED):
                _view(tag)
        with html.Div(classes="stage-slider d-flex align-center"):
            html.Span("{{ offset.value.toFixed(1) }} mm", classes="text-caption number", style="width: 72px",
                      id="offset")  # fmt: skip
            v.VSlider(v_model=("slice_value",), min=("offset.min",), max=("offset.max",), step=("offset.step",),
                      id="slice", **DENSE)  # fmt: skip


def _view(tag: str) -> None:
    with html.Div(classes=(f"maximized === '{tag}' ? 'view whole' : 'view'",), id=f"view-{tag}"):
        html.Div(_TITLES[tag], classes="view-title")
        with html.Div(classes="view-button"), v.VBtn(
            icon=True, size="x-small", variant="text", id=f"maximize-{tag}",
            click=f"maximized = maximized ? '' : '{tag}'",
        ):  # fmt: skip
            v.VIcon(icon=("maximized ? 'mdi-fullscreen-exit' : 'mdi-fullscreen'",))
        client.ServerTemplate(name=tag)


# Choosing on the server


def _browser() -> None:
    with (
        v.VDialog(
            model_value=("!!browsing",),
            max_width=640,
            scrim=False,
            update_modelValue="browsing = $event ? browsing : ''",
        ),
        v.VCard(title="Choose on the server", id="browser"),
    ):
        with v.VCardText():
            v.VTextField(
                label="Path", v_model=("browse_text",), id="browse-text", clearable=True,
                __events=[("keyup_enter", "keyup.enter")], keyup_enter="trigger('browse', [browsing, browse_text])",
                **FIELD,
            )  # fmt: skip
            _entries()
        with v.VCardActions():
            v.VBtn("Use this folder (DICOM)", click="trigger('choose', [browsing, browse_path])",
                   disabled=("!browse_path",), id="browse-use")  # fmt: skip
            v.VSpacer()
            v.VBtn("Close", click="browsing = ''")


def _entries() -> None:
    with v.VList(density="compact", style="max-height: 46vh; overflow-y: auto"):
        v.VListItem(title="..", prepend_icon="mdi-arrow-up", v_if=("browse_parent",),
                    click="trigger('browse', [browsing, browse_parent])")  # fmt: skip
        v.VListItem(
            v_for="entry in browse_entries", key="entry.path", title=("entry.name",),
            prepend_icon=("({folder: 'mdi-folder', image: 'mdi-cube-scan'})[entry.kind] || 'mdi-vector-difference'",),
            subtitle=("entry.kind === 'result' ? 'Result: opens it' : undefined",),
            click="entry.kind === 'result' ? trigger('open', [entry.path]) : "
            "trigger('browse', [browsing, entry.path])",
        )  # fmt: skip


# A licence


def _question() -> None:
    with (
        v.VDialog(model_value=("!!question",), max_width=520, persistent=True),
        v.VCard(title="Licence of a model", text=("question",), id="question"),
        v.VCardActions(),
    ):
        v.VSpacer()
        v.VBtn("No", click="trigger('answer', [false])", id="answer-no")
        v.VBtn("I agree", click="trigger('answer', [true])", color="primary", variant="flat", id="answer-yes")
