"""The page: all of it in one file, every cell and every gap on it, and a browser shows it as it should be."""

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boards import options
from made_up_runs import write_attempt, write_run
from peft_vision.report.comparison import ReportContent, compare

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
NASTY = """<script>alert("1")</script> & 'quotes'"""
EPOCHS = [(2.0, 0.5), (1.0, 0.6), (0.5, 0.65)]
PROBE = """<script>
const root = document.documentElement;
root.dataset.inner = innerWidth;
root.dataset.wide = root.scrollWidth - root.clientWidth;
const names = () => [...document.querySelectorAll("table.board tbody th")].map((cell) => cell.textContent).join(" ");
root.dataset.before = names();
document.querySelectorAll("table.board thead button")[4].click();
root.dataset.falling = names();
document.querySelectorAll("table.board thead button")[4].click();
root.dataset.rising = names();
document.querySelector("table.board thead button").click();
root.dataset.alphabet = names();
root.dataset.pictures = [...document.querySelectorAll("figure svg")].filter((its) => its.clientWidth > 100).length;
root.dataset.requests = performance.getEntriesByType("resource").length;
</script>"""

NARROW = """<script>
const found = parent.document.documentElement.dataset;
found.inner = innerWidth;
found.scrolls = document.documentElement.scrollWidth;
const whole = (its) => its.getBoundingClientRect().right <= innerWidth;
const outside = [...document.querySelectorAll("body *")].filter((its) => !its.closest(".scroll, pre"));
found.cut = outside.filter((its) => !whole(its)).length;
const boxes = [...document.querySelectorAll(".scroll")];
found.boxes = boxes.filter((its) => its.scrollWidth > its.clientWidth).length;
found.heading = Math.max(...[...document.querySelectorAll(".board tbody th")].map((its) => its.clientWidth));
</script>"""


class Links(HTMLParser):
    """Every address that a document names, and the tags that it opens and does not close."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.addresses += [value for name, value in attributes if name in ("href", "src", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportContent:
    """Three methods on two data sets; gaps of every kind."""
    runs = tmp_path_factory.mktemp("runs")
    for data, less in (("pets", 0.0), ("dtd", 0.2)):
        for number, method in enumerate(("lora", "linear", "bitfit")):
            for seed in range(3):
                test = 0.9 - less - 0.04 * number + seed**2 / 1000 * (number + 1)
                costs = {"parameters": 10**number, "peak_mib": 900.0 + number, "train_seconds": 5.0 * number + 1}
                asked = {"data": data, "source": f"{data} {NASTY}", "seed": seed, "test": test, "epochs": EPOCHS}
                write_run(runs, method=method, lr=0.1, val=0.6, **asked, **costs)
                write_run(runs, method=method, lr=0.2, val=0.5, **asked, **costs)
    write_run(runs, method="vqt", data="pets", source=f"pets {NASTY}", test=0.7, choice={"selection": "test"})
    write_attempt(runs, method="full", data="pets", error=f"the loss became {NASTY}")
    write_attempt(runs, method="full", data="dtd")
    (runs / "torn").mkdir()
    (runs / "torn" / "result.json").write_text('{"metrics":')
    return compare([runs], runs / "report", options())


@pytest.fixture(scope="module")
def text(report) -> str:
    return report.page.read_text()


def browse(page: Path, folder: Path, *flags: str) -> str:
    """What Chromium prints; it has no network to ask."""
    quiet = (
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *(f"--{flag}" for flag in quiet)]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars"]
    ended = subprocess.run([*command, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome here")


def test_it_names_no_address_but_the_folders_of_runs(text):
    links = Links()
    links.feed(text)
    assert links.open == []
    outside = [address for address in links.addresses if not re.match(r"#|\.\./[^/]", address)]
    assert outside == []
    assert not re.search(r"https?:|@import|url\((?!#)", text)


def test_every_link_to_a_run_leads_to_its_folder(report, text):
    folders = {address.split("/")[1] for address in re.findall(r'href="(\.\./[^"]+)"', text)}
    assert {folder for folder in folders if not (report.page.parents[1] / folder).is_dir()} == set()
    assert len(folders) == 37


def test_every_figure_and_every_gap_is_shown(report, text):
    for row in report.rows:
        if row["mean"] is None:
            word = (
                f"— ({row['data_sets']} of {row['of_data_sets']})" if row["status"] == "incomplete" else row["status"]
            )
            assert f">{word}<" in text
        else:
            shown = f"{100 * row['mean']:.2f}" + (f" ± {100 * row['std']:.2f}" if row["std"] is not None else "")
            assert shown in text
    assert {row["status"] for row in report.rows} >= {"scored", "failed", "unfinished", "missing", "incomplete"}


def test_what_is_left_out_is_named_with_its_reason(text):
    assert "torn" in text
    assert "result.json: cannot be read" in text
    assert "not finished" in text


def test_a_choice_by_test_images_is_a_warning_at_the_top(text):
    assert "chosen on test images" in text[: text.index("<h2")]


def test_text_of_runs_is_never_markup(text):
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_every_picture_and_table_has_words_for_who_cannot_see_it(text):
    figures = re.findall(r"<figure>.*?</figure>", text, flags=re.S)
    assert len(figures) == 7  # cost of the mean; cost, curves and response of each data set
    assert all('role="img" aria-label="' in figure and "<figcaption>" in figure for figure in figures)
    assert text.count("<table") == text.count("<caption") == text.count("<thead")


def test_the_same_runs_are_the_same_page(report, text):
    again = compare([report.page.parents[1]], report.page.parent, options())
    assert (again.page.read_text(), again.rows) == (text, report.rows)


def test_a_caller_gets_rows_and_pictures(report):
    assert all(path.is_file() for path in report.pictures.values())
    assert set(report.pictures) >= {"mean-vit_micro-pareto", "pets-vit_micro-curves", "dtd-vit_micro-response"}


@in_browser
@pytest.mark.parametrize("width", [1280, 600])
def test_a_browser_shows_it_whole_and_orders_its_tables(width, text, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"{PROBE}</body>"))
    shown = browse(page, tmp_path, f"--window-size={width},900", "--dump-dom")
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', shown[: shown.index("<head")]))
    assert (found["wide"], found["pictures"], found["requests"]) == ("0", "7", "0")
    assert int(found["inner"]) <= width
    assert found["before"] == "lora linear bitfit full vqt ‡"
    assert found["falling"] == "lora linear bitfit vqt ‡ full"
    assert found["rising"] == "vqt ‡ bitfit linear lora full"
    assert found["alphabet"] == "bitfit full linear lora vqt ‡"


@in_browser
@pytest.mark.parametrize("width", [420, 320])
def test_a_narrow_window_cuts_nothing_and_tables_scroll_inside_their_own_box(width, text, tmp_path):
    """In a frame, since the windows of browsers do not become that narrow."""
    long = text.replace("<h3>", "<h3>vit_base_patch16_224.augreg2_in21k_ft_in1k_and_more_without_any_gap ")
    long = long.replace(">lora<", ">lora, a_row_of_its_own=a_value_as_long_as_that, another_value=0.00001<")
    page = tmp_path / "page.html"
    framed = escape(long.replace("</body>", f"{NARROW}</body>"))
    page.write_text(
        f'<!doctype html><iframe width="{width}" height="2000" style="border:0" srcdoc="{framed}"></iframe>'
    )
    shown = browse(page, tmp_path, "--window-size=800,2000", "--dump-dom")
    found = {name: int(value) for name, value in re.findall(r'data-(\w+)="(\d+)"', shown[: shown.index("<head")])}
    assert (found["inner"], found["scrolls"], found["cut"]) == (width, width, 0)
    assert found["boxes"] > 5
    assert found["heading"] < width / 2  # the column that stays in sight leaves room for the figures


@in_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_its_picture_is_not_blank_and_ends_at_the_edge_of_the_window(width, report, tmp_path):
    picture = tmp_path / "page.png"
    browse(report.page, tmp_path, f"--window-size={width},2400", f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert pixels.shape[1] == width
    margins = (pixels[:, :8], pixels[:, -8:])
    assert all(margin.std() < 1 for margin in margins)  # paper on both sides
    assert pixels[:, width // 10 : -width // 10].std() > 10
    inked = (np.abs(pixels - np.median(pixels)) > 60).any(axis=1)
    assert inked[:1200].mean() > 0.2
