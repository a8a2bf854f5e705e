"""The report is one self-contained HTML file."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mgmtn_jax.attributes import CELEBA, REGIONS, AttributeSet
from mgmtn_jax.report import html_report, pictures
from mgmtn_jax.report.notable_predictions import (
    confident_correct,
    confident_errors,
    least_confident,
)
from tests.helpers.report import HISTORY, evaluated, example, sheet, write_complete


class Page(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of the cells of the attribute table."""

    VOID = frozenset({"img", "input", "link", "meta", "path", "use", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "tr" in self.open and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = write_complete(tmp_path_factory.mktemp("report") / "made" / "here", CELEBA)
    assert path.name == "index.html"
    return path.read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_fetched_and_the_page_is_small(text, page):
    assert "http://" not in text
    assert "https://" not in text
    assert len(text.encode()) < 5_000_000
    addresses = [
        attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset") if name in attrs
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    # Every opened tag was closed, in order.
    assert page.open == []


def test_table_lists_all_attributes_by_gain_with_undefined_ones_last(text, page):
    rows = [row for row in page.rows if len(row) == 10][1:]
    assert sorted(row[0].replace(" ", "_") for row in rows) == sorted(CELEBA.names)
    gains = [float(row[2].replace("−", "-")) for row in rows[:-1]]
    assert gains == sorted(gains, reverse=True)
    assert rows[-1][0] == "5 o Clock Shadow"
    assert rows[-1][2:] == ["–"] * 8
    # One attribute has no label: it has a dash and no bar.
    assert text.count('<i style="width:', text.index("<tbody>"), text.index("</tbody>")) == 39


def test_sort_buttons_are_accessible(page):
    heads = [attrs for attrs in page.all("th") if attrs.get("scope") == "col"][:10]
    assert [head.get("aria-sort") for head in heads].count("descending") == 1
    assert len(page.all("button")) == 10


def test_pictures_decode_and_have_alternative_texts(page):
    images = page.all("img")
    # Each face: one picture, eight layers over it, eight thumbnails.
    assert len(images) == 26 * 17
    assert all("alt" in image for image in images)
    layers = [image for image in images if "mask" in image.get("class", "")]
    assert all(image["alt"] == "" for image in layers)
    for image in images[:17]:
        data = base64.b64decode(image["src"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            expected = (176, 176) if picture.format == "WEBP" else (28, 28)
            assert picture.size == expected


def test_masks_keep_their_opacity_and_their_color():
    mask = np.zeros((8, 8), np.float32)
    mask[2:4, 5] = 1.0
    uri = pictures.mask_uri(mask, "#56b4e9")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3], 255 * mask)
    np.testing.assert_array_equal(pixels[3, 5, :3], [0x56, 0xB4, 0xE9])


def test_every_region_has_a_switch_and_a_rule(text, page):
    switches = {attrs["id"] for attrs in page.all("input")}
    assert switches == {f"show-{region}" for region in REGIONS}
    for region in REGIONS:
        assert f"#show-{region}:not(:checked)) .mask-{region}" in text


def test_ids_are_unique_and_references_resolve(text, page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    # The same clip path or marker may be drawn by two plots, then under the same id.
    repeated = {name for name in ids if ids.count(name) > 1}
    assert all(re.fullmatch(r"[mp][0-9a-f]+", name) for name in repeated)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_plots_are_described_and_use_the_colors_of_the_page(text, page):
    labels = [attrs.get("aria-label", "") for attrs in page.all("figure")]
    assert any("train from 2 at step 10 to 1 at step 20" in label for label in labels)
    # Loss, mask loss, accuracy and learning rate; images_per_second is not plotted. Two of all
    # attributes and one for each that has a label.
    assert len(page.all("svg")) == 4 + 2 + 39
    assert any(label.startswith("Bald: average precision") for label in labels)
    assert "var(--validation)" in text
    assert "#01020" not in text


def test_user_text_is_escaped(text, page):
    assert "<face>" not in text
    assert any("folder/<face> & co.jpg" in data for data in page.text)


def test_sections_name_the_comparison_and_the_selected_predictions(page):
    text = " ".join(" ".join(page.text).split())
    assert "is 0.50 points below it, 95 % interval −1.25 to +0.25" in text.replace("\xa0", " ")
    assert "the interval includes 0" in text
    headings = [number for number, (tag, _) in enumerate(page.tags) if tag == "h2"]
    assert len(headings) >= 6
    assert {"Male", "Bald", "Examples"} <= {data.strip() for data in page.text}
    asked = [attrs for attrs in page.all("span") if "verdict" in attrs.get("class", "")]
    assert len(asked) == 2


def test_configuration_is_folded(page):
    folded = next(data for data in page.text if '"model"' in data)
    assert json.loads(folded) == {"model": {"name": "mgmtn"}}


def test_custom_attributes_without_masks_or_history(tmp_path):
    own = AttributeSet.create(("Hat", "Scarf"), {"clothes": ("Hat", "Scarf")})
    path = html_report.write_report(
        tmp_path,
        title="Own attributes",
        **evaluated(own, masks=False),
        history=[],
        sheets=[sheet(example(np.random.default_rng(0), 2, masks=False))],
        provenance={},
    )
    page = Page(path.read_text())
    assert len(page.all("img")) == 1
    assert len(page.all("svg")) == 3
    assert page.all("input") == []


def test_a_split_without_any_label_still_gives_a_page(tmp_path):
    own = AttributeSet.create(("Hat",))
    path = html_report.write_report(
        tmp_path, title="Empty", **evaluated(own), history=[], sheets=[], provenance={}
    )
    assert "Hat" in path.read_text()


def test_the_same_run_gives_the_same_page(tmp_path):
    pages = [
        html_report.write_report(
            tmp_path / name,
            title="Twice",
            **evaluated(CELEBA),
            history=HISTORY,
            sheets=[sheet(example(np.random.default_rng(0), 40))],
            provenance={},
        ).read_bytes()
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_notable_predictions_take_each_face_once_and_alternate_attributes():
    labels = np.array([[1, 1], [1, 0], [1, 0], [0, -1]])
    probabilities = np.array([[0.99, 0.98], [0.97, 0.9], [0.8, 0.51], [0.7, 0.5]])
    assert confident_correct(probabilities, labels, 9) == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]
    assert confident_errors(probabilities, labels, 9) == [
        (1, 1),
        (3, 0),
        (2, 1),
    ]
    assert least_confident(probabilities, labels, 2) == [(2, 1), (3, 0)]
    # Of two attributes the second one comes before the first one's second best.
    labels[1, 1] = 1
    assert confident_correct(probabilities, labels, 2) == [(0, 0), (1, 1)]
