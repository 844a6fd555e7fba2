"""The page in a real browser: nothing goes wrong in it, what is drawn can be seen, and pointing tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.report.write import write_report
from tests.browser import Browser
from tests.orchestrator.report.told_run import HOSTILE, write_images_run

MIDDLE = "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('{}').getBoundingClientRect())"
WIDEST = (
    "plot => Math.max(...[...plot.querySelectorAll('path')].map(path => path.getBoundingClientRect().width))"
    " / plot.clientWidth"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_report([(write_images_run(tmp_path_factory.mktemp("run")), None)]).removeprefix("file://"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def show(browser: Browser, selector: str) -> list[float]:
    """Scrolls to an element; the middle of it."""
    browser.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    middle: list[float] = browser.value(MIDDLE.format(selector))
    return middle


def test_charts_are_drawn_and_nothing_is_complained_of(browser: Browser, file: Path) -> None:
    browser.open(file)
    assert browser.complaints == []
    assert browser.requested == [file.as_uri()]
    assert browser.value("window.hurt") is None
    # Loss, samples a second, learning rate, gradient, scale, accuracy, evaluation, seconds, four of health, two
    # histograms. The loss is the narrowest: it has a hole.
    assert browser.value("document.querySelectorAll('.plot[data-chart]').length") == 14
    assert browser.value(
        f"[...document.querySelectorAll('.plot[data-chart]')].map({WIDEST}).every(share => share > 0.3)"
    )
    assert browser.value("[...document.images].every(image => image.naturalWidth === 32)")


def test_pointing_at_a_chart_tells_its_values(browser: Browser, file: Path) -> None:
    browser.open(file)
    show(browser, "#training .plot")
    left, right = browser.value(
        "(box => [[box.x + 1, box.y + 1], [box.right - 1, box.y + 80]])"
        "(document.querySelector('#training .plot').getBoundingClientRect())"
    )
    browser.point(*right)
    assert browser.value("document.getElementById('tip').innerText") == "step 7\n\ncounts: 2.3"
    browser.point(*left)
    assert browser.value("document.getElementById('tip').innerText") == "step 1\n\ncounts: 2.9"
    browser.point(left[0], left[1] - 30)
    assert browser.value("document.getElementById('tip').hidden")


def test_the_keyboard_reads_a_chart_out(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.value("document.querySelector('#evaluations .plot').focus()")
    for key, words in (("End", "step 7, 0.6 (0.55…0.65)"), ("ArrowLeft", "step 3, 0.2 (0.15…0.25)")):
        browser.press(key)
        assert browser.value("document.getElementById('said').textContent") == words
    browser.press("Escape")
    assert browser.value("document.getElementById('tip').hidden")


def test_pointing_at_the_map_shows_the_sample(browser: Browser, file: Path) -> None:
    """A caption that would like to be markup is shown as it is, and does nothing."""
    browser.open(file)
    show(browser, ".map")
    browser.point(*browser.value(MIDDLE.format(".dot.c0")))
    assert browser.value("document.querySelector('#tip img').src.slice(0, 23)") == "data:image/jpeg;base64,"
    browser.value("document.querySelector('.map').focus()")
    told = set()
    for _ in range(60):
        browser.press("ArrowRight")
        told.add(browser.value("document.getElementById('tip').lastChild.textContent"))
    assert HOSTILE in told
    assert browser.value("window.hurt") is None
    assert browser.complaints == []


def test_dark_narrow_and_printed(browser: Browser, file: Path) -> None:
    browser.open(file, dark=True)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    browser.open(file, width=360)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    browser.print_media()
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_printed_page_is_not_cut_off(browser: Browser, file: Path) -> None:
    browser.open(file, width=750)  # A4 without its margins
    browser.print_media()
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.value("document.querySelector('pre').scrollHeight <= document.querySelector('pre').clientHeight")
