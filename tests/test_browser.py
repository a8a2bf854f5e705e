"""The report and the page of `experiments.serve` in headless Chromium, used as a person does."""

from __future__ import annotations

import io
import re
import shutil

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from experiments.photographs import web_app
from landmarks.drawing.faces import draw_face, face_jpeg
from mgmtn_jax.attributes import CELEBA_GROUPS, REGIONS, AttributeSet
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.models import build, functional
from mgmtn_jax.runs import partitioning
from tests.helpers.local_server import serving
from tests.helpers.report import write_complete
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_config

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: make test BROWSER=1"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)
expect = sync_api.expect

WAIT = 60_000  # milliseconds; nothing here waits for a time, only for what must appear
PHONE, DESK = 390, 1280  # pixels
LIMITS = web_app.Limits(megabytes=2, pixels=10**6, seconds=30.0)
NAMES = ("5_o_Clock_Shadow", "Bald", "Male", "Mouth_Slightly_Open", "Smiling", "Young")
ATTRIBUTES = AttributeSet.create(
    NAMES,
    {
        group: [name for name in members if name in NAMES]
        for group, members in CELEBA_GROUPS.items()
    },
)
FACE = face_jpeg(5, 1)[0]


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def group_photograph():
    faces = [draw_face(5, index)[0] for index in (1, 2)]
    margins = (40, 40, 40, 40, cv2.BORDER_REPLICATE)
    return png(np.concatenate([cv2.copyMakeBorder(face, *margins) for face in faces], axis=1))


WALL = png(np.full((150, 200), 128, np.uint8))


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=WAIT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        context = browser.new_context(viewport={"width": DESK, "height": 844})
        context.set_default_timeout(WAIT)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def server():
    """The address of the page of a tiny network with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        config = tiny_config(trunk="stub")
        builder = build.network_builder(config, ATTRIBUTES)
        params, batch_stats = random_variables(builder)
        network = functional.create(builder)
    mesh = partitioning.create_mesh(-1, 1, jax.device_count())
    variables = {"params": params, "batch_stats": batch_stats}
    variables = jax.device_put(variables, partitioning.replicated(mesh))
    predictor = Predictor(network, variables, config, ATTRIBUTES, 0, "none", mesh)
    predictor(np.zeros((1, 32, 32, 3), np.uint8))  # Compiles.
    with serving(predictor, LIMITS) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The file address of a report, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("report") / "my faces #1"
    return write_complete(folder, ATTRIBUTES, num_faces=4).as_uri()


@pytest.fixture
def logged():
    """Everything that the page logged, and its uncaught errors."""
    return []


@pytest.fixture
def page(browser, server, report, logged):
    """A tab of its own. Afterwards nothing was logged and nothing requested from elsewhere."""
    requested = []
    page = browser.new_page()
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    # From the start: a key may otherwise open Chromium's own dialog before Playwright takes over.
    page.on("filechooser", lambda chooser: None)
    yield page
    page.close()
    assert logged == []
    assert [url for url in requested if not url.startswith((server, report, "data:"))] == []


def choose(page, **photographs):
    """Chooses photographs in the dialog that a click opens; names are written without ending."""
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose").click()
    chooser.value.set_files(
        [
            {"name": f"{name}.png", "mimeType": "image/png", "buffer": data}
            for name, data in photographs.items()
        ]
    )


def headings(page):
    return page.locator("main h2")


def masks(page, region):
    return page.locator(f"img[data-region={region}]")


def overflow(page):
    """Elements that stick out of the window, and by how many pixels one has to scroll for them."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const wide = [...document.querySelectorAll('body *')].filter(
            node => node.getBoundingClientRect().right > width + 1 && !node.closest('.wide, pre'));
          return [document.documentElement.scrollWidth - width, wide.map(node => node.outerHTML)];
        }"""
    )


def test_several_photographs_are_chosen_with_the_mouse(page, server):
    page.goto(server)
    choose(page, ann=FACE, wall=WALL, party=group_photograph())
    expect(headings(page)).to_have_text(
        ["1 face in ann.png", "No face found in wall.png", "2 faces in party.png"]
    )
    faces = page.locator("article")
    expect(faces).to_have_count(3)
    for face in faces.all():
        expect(face.locator("img")).to_have_count(1 + len(REGIONS))
        rows = face.locator(".attributes div").all_inner_texts()
        assert {row.split("\n")[0].replace(" ", "_") for row in rows} == set(NAMES)
        assert all(0 <= int(row.split()[-2]) <= 100 for row in rows)
    images = page.locator("article img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert all(images)
    # The next choice replaces the photographs.
    choose(page, bob=FACE)
    expect(headings(page)).to_have_text(["1 face in bob.png"])
    expect(faces).to_have_count(1)


def test_a_photograph_is_chosen_with_the_keyboard(page, server):
    page.goto(server)
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "ann.jpg", "mimeType": "image/jpeg", "buffer": FACE}])
    expect(headings(page)).to_have_text(["1 face in ann.jpg"])


def test_photographs_are_dropped(page, server, tmp_path):
    files = {"ann.jpg": FACE, "wall.png": WALL}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    page.goto(server)
    session = page.context.new_cdp_session(page)

    def drag(kind):  # the browser's own event; without the page's doing it would open the file
        data = {"items": [], "files": [str(tmp_path / name) for name in files]}
        data["dragOperationsMask"] = 1
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 600, "data": data})

    drag("dragEnter")
    drag("dragOver")
    expect(page.locator("#drop")).to_have_class("drop over")
    drag("drop")
    expect(headings(page)).to_have_text(["1 face in ann.jpg", "No face found in wall.png"])
    expect(page.locator("#drop")).to_have_class("drop")
    assert page.url == server


def test_a_file_that_is_no_photograph_is_one_sentence(page, server, logged):
    page.goto(server)
    choose(page, empty=b"", notes=b"no photograph", large=bytes(2_000_001), ann=FACE)
    expect(headings(page)).to_have_text(
        [
            "empty.png: the file is empty",
            re.compile(r"notes\.png: not an image of a known format \(.*\)"),
            "large.png: the file is larger than the limit of 2 megabytes",
            "1 face in ann.png",
        ]
    )
    expect(page.locator("h2.error")).to_have_count(3)
    # The browser itself logs the status of the one that the server rejected.
    (message,) = logged
    assert "422" in message
    logged.clear()


def test_a_server_that_has_stopped_is_one_sentence(page, server, logged):
    page.goto(server)
    page.route("**/predict", lambda route: route.abort())
    choose(page, ann=FACE)
    expect(headings(page)).to_have_text(
        ["ann.png: the server does not answer; is it still running?"]
    )
    (message,) = logged
    assert "net::ERR_FAILED" in message
    logged.clear()


def test_a_late_answer_does_not_replace_a_newer_photograph(page, server):
    held = []
    page.goto(server)
    page.route("**/predict", lambda route: held.append(route), times=1)
    choose(page, ann=FACE)
    expect(page.get_by_role("status")).to_have_text("Processing ann.png …")
    choose(page, bob=FACE)
    expect(headings(page)).to_have_text(["1 face in bob.png"])
    with page.expect_response("**/predict"):
        held[0].continue_()
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    expect(headings(page)).to_have_text(["1 face in bob.png"])


def test_masks_of_photographs_are_switched(page, server):
    page.goto(server)
    switches = page.get_by_role("group").get_by_role("button")
    expect(switches).to_have_count(0)  # There is nothing to switch yet.
    choose(page, ann=FACE)
    expect(switches).to_have_count(len(REGIONS))
    expect(masks(page, "object")).to_be_hidden()  # It would cover the others.
    switch = page.get_by_role("button", name="mouth")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")
    expect(masks(page, "mouth")).to_be_hidden()
    expect(masks(page, "nose")).to_be_visible()
    # What is off stays off for the next photograph.
    choose(page, bob=FACE)
    expect(headings(page)).to_have_text(["1 face in bob.png"])
    expect(masks(page, "nose")).to_be_visible()
    expect(masks(page, "mouth")).to_be_hidden()
    for key in ("Space", "Enter", "Space"):
        before = masks(page, "mouth").is_visible()
        switch.press(key)
        expect(masks(page, "mouth")).to_be_visible(visible=not before)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="ear")).to_be_focused()


def test_masks_of_the_report_are_switched(page, report):
    page.goto(report)
    images = page.locator(".sheet img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert len(images) == 6 * 17
    assert all(images)  # Those below the window too: a screenshot and a print show them.
    switch = page.get_by_role("checkbox", name="mouth")
    shown = page.locator(".mask-mouth").first
    expect(page.locator(".mask-object").first).to_be_hidden()
    expect(shown).to_be_visible()
    page.locator(".legend label", has_text="mouth").click()
    expect(shown).to_be_hidden()
    expect(page.locator(".mask-nose").first).to_be_visible()
    switch.press("Space")
    expect(shown).to_be_visible()


def test_the_table_of_attributes_is_sorted(page, report):
    page.goto(report)
    table = page.locator("#attribute-table")

    def cells(column):
        return table.locator("tbody tr").evaluate_all(
            "(rows, k) => rows.map(row => row.cells[k].innerText.trim())", column
        )

    def sorted_by(name):
        heads = table.locator("th[aria-sort]")
        expect(heads).to_have_count(1)
        assert heads.inner_text().strip() == name
        return heads.get_attribute("aria-sort")

    assert sorted_by("Gain") == "descending"
    for number, name in ((3, "Accuracy"), (2, "Gain")):
        for direction in ("descending", "ascending"):
            table.get_by_role("button", name=name).click()
            assert sorted_by(name) == direction
            *values, undefined = cells(number)
            assert undefined == "–"  # An attribute without labels is last in both directions.
            numbers = [float(value.replace("−", "-")) for value in values]
            assert len(set(numbers)) > 1
            assert numbers == sorted(numbers, reverse=direction == "descending")
            assert sorted(cells(0)) == sorted(name.replace("_", " ") for name in NAMES)
    assert sum(number < 0 for number in numbers) > 1  # As text they would be in another order.
    for key, direction in (("Enter", "ascending"), ("Space", "descending")):
        table.get_by_role("button", name="Attribute").press(key)
        assert sorted_by("Attribute") == direction
        names = [name.replace("_", " ") for name in sorted(NAMES)]
        assert cells(0) == (names if direction == "ascending" else names[::-1])


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_sticks_out_of_the_window(page, server, report, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(server)
    assert overflow(page) == [0, []]
    choose(page, **{"IMG_" * 50: group_photograph(), "wall" * 50: WALL})
    expect(headings(page)).to_have_count(2)
    assert overflow(page) == [0, []]
    page.goto(report)
    for folded in page.locator("summary").all():
        folded.click()
    assert overflow(page) == [0, []]
    # On a desk no table has to be scrolled either.
    wide = page.locator(".wide").evaluate_all("all => all.map(t => t.scrollWidth > t.clientWidth)")
    assert len(wide) == 4
    assert width == PHONE or not any(wide)
