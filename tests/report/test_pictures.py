"""Pictures as files: the same bytes for the same runs, and nothing in them that asks for a network."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from boards import board, boards
from made_up_runs import write_run
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.per_class import class_report
from peft_vision.report.pictures import Picture, file_stems, pictures, save_figure

EPOCHS = [(2.0, 0.5), (1.0, 0.6)]


@pytest.fixture
def runs(tmp_path):
    """Two methods, one of them with two rates, scored out of distribution."""
    runs = tmp_path / "runs"
    for method, rates in (("full", (0.1, 0.2)), ("lora", (0.1,))):
        for lr in rates:
            write_run(runs, method=method, lr=lr, epochs=EPOCHS, ood={"fog": 0.4}, train_seconds=lr, peak_mib=90.0)
    return runs


def shown(found: list[Leaderboard]) -> Iterator[Picture]:
    return pictures(found, class_report(found, file_stems(found)))


def hung(runs, out, formats=("png", "svg")):
    out.mkdir()
    return [save_figure(picture, out, formats) for picture in shown([board(runs)])]


def test_every_picture_is_there_in_every_format(runs, tmp_path):
    names = [figure.picture.name for figure in hung(runs, tmp_path / "out")]
    kinds = ("pareto", "curves", "response", "scatter", "shifts")
    assert names == [f"digits-vit_micro-{kind}" for kind in kinds]
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == sorted(f"{name}.{form}" for name in names for form in ("png", "svg"))


def test_only_the_formats_that_were_asked_for_are_written(runs, tmp_path):
    hung(runs, tmp_path / "out", ("svg",))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".svg"}


def test_the_same_runs_are_the_same_bytes(runs, tmp_path):
    first, second = (hung(runs, tmp_path / name) for name in "ab")
    for one, other in zip(first, second, strict=True):
        assert one.svg == other.svg
        assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]


def test_an_svg_has_letters_and_no_date(runs, tmp_path):
    for figure in hung(runs, tmp_path / "out"):
        text = next(path for path in figure.files if path.suffix == ".svg").read_text()
        assert "digits, vit_micro" in "".join(ElementTree.fromstring(text).itertext())
        assert "dc:date" not in text


def test_an_svg_on_a_page_names_no_address_and_shares_no_id(runs, tmp_path):
    ids = [re.findall(r'\bid="([^"]+)"', figure.svg) for figure in hung(runs, tmp_path / "out")]
    assert all(len(found) == len(set(found)) for found in ids)
    assert len({name for found in ids for name in found}) == sum(map(len, ids))
    for figure in hung(runs, tmp_path / "again"):
        assert "http" not in figure.svg
        targets = re.findall(r'(?:href="#|url\(#)([^")]+)', figure.svg)
        assert set(targets) <= set(re.findall(r'\bid="([^"]+)"', figure.svg))


def test_no_word_of_a_picture_lies_outside_it(tmp_path):
    """Long names, one panel and many."""
    names = ["a_method_with_a_very_long_name_indeed", *(f"method_{number}" for number in range(7))]
    for methods, backbone in ((names[:1], "vit_base_patch16_siglip_gap_512"), (names, "vit_b")):
        for method in methods:
            for lr, decay in ((1e-5, 0.0), (1e-5, 1e-4), (0.3, 0.0)):
                asked = {"method": method, "backbone": backbone, "lr": lr, "decay": decay, "epochs": EPOCHS}
                write_run(tmp_path, data="a_data_set_with_a_long_name", train_seconds=2.0, peak_mib=900.5, **asked)
    for picture in shown(boards(tmp_path)):
        figure = picture.figure
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        inside = figure.bbox
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        boxes += [text.get_window_extent(renderer) for text in (*figure.texts, *figure.legends[0].get_texts())]
        for box in boxes:
            assert inside.x0 - 1 <= box.x0 <= box.x1 <= inside.x1 + 1, picture.name
            assert inside.y0 - 1 <= box.y0 <= box.y1 <= inside.y1 + 1, picture.name
