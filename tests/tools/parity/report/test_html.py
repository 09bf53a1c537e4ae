"""The HTML report stands alone, and shows what configs and paths say without obeying it."""

import base64
import re
from html.parser import HTMLParser

import pytest

from tools.parity.compare import compare_with
from tools.parity.records import kept
from tools.parity.report.html import to_html
from tools.parity.report.summary import Report
from tools.parity.rows import PASSED, Row

VOID = {"meta", "img", "link", "br"}


class Outline(HTMLParser):
    """Elements and text of a page; raises where elements aren't closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(report) -> str:
    return to_html(report)


def test_it_is_one_file_that_asks_for_nothing(page):
    outline = Outline(page)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert all(image.startswith("data:image/svg+xml;base64,") for image in outline.images)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_what_configs_paths_and_errors_say_is_escaped(page, comparisons):
    assert "<script" not in page
    text = Outline(page).text
    assert comparisons[3].name in text
    assert "alert('&')" in text


def test_the_table_the_culprits_and_the_verdict_are_in_it(page, report):
    text = Outline(page).text
    assert report.verdict in text
    for summary in report.summaries:
        assert summary.line.title in text
    assert "layers.0 (ConformerBlock, parts/submodules/conformer_block.py), in evaluation" in text
    assert "block order" in text
    assert "NeMo has no such option" in text
    assert report.made in text
    assert "max_mask_ratio" in text
    assert "2.00 to 2.33" in text


def test_failed_cases_stand_open_and_others_closed(page):
    states = re.findall(r"<details( open)?>\s*<summary><span class=\"([a-z ]+)\">", page)
    assert states == [("", "passed"), (" open", "failed"), (" open", "failed"), (" open", "failed"), ("", "not run")]


def test_pictures_are_svg_without_scripts(page):
    images = Outline(page).images
    assert len(images) == 7  # all cases, each case, speed
    for image in images:
        svg = base64.b64decode(image.partition(",")[2]).decode()
        assert "<svg" in svg
        assert "<script" not in svg


def test_a_kept_record_makes_a_page(tmp_path):
    comparison = compare_with(kept("model_pre_conv_2_books"), tmp_path)
    outline = Outline(to_html(Report([comparison], "records")))
    assert "encoder.layers.1.conv.batch_norm.running_mean" in outline.text


def test_a_page_can_be_written_whatever_a_file_is_called(compared):
    to_html(Report([compared([Row("loss", "\udcff", PASSED)], name="\udcff")], "")).encode("utf-8")


def test_an_empty_report_makes_a_page():
    assert "FAILED: nothing was compared" in Outline(to_html(Report([], ""))).text
