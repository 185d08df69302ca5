import re
from dataclasses import replace

import pytest

from dre.engine.cost import Tally
from dre.reporting import recipe_lines, report_html
from dre.statistics import summarise
from tests.reporting.examples import NAMES, images, report, scores, summary
from tests.reporting.pages import Page, as_shown, find_browser, pixels

SECTIONS = ["glance", "curves", "examples", "images", "pictures", "statistics", "costs", "failures", "run"]
TABLES = {"scores", "worst", "best", "each-image", "cost", "missing", "failed", "facts", "files"}
PAIRS = {f"pairs-{metric}" for metric in ("deletion", "faithfulness", "faithfulness_normalised", "pearson_skewness")}
DRAWINGS = ["intervals", "curve-panels", "ranks-deletion", "ranks-faithfulness", "quality-cost"]


@pytest.fixture(scope="module")
def text():
    """Write the page once; what no test changes need not be drawn again."""
    return report_html(report())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def html_file(text, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(text)
    return path


def test_the_page_has_every_section_table_and_picture(page):
    assert set(SECTIONS) | set(DRAWINGS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tables.keys() == TABLES | PAIRS
    kinds = [picture["src"].partition(";")[0] for picture in page.pictures]
    assert kinds.count("data:image/svg+xml") == 6  # intervals, curves, three diagrams of ranks, quality against cost
    assert kinds.count("data:image/png") == 3 * (1 + len(NAMES)) + 1  # examples, and what a callback drew
    assert all(picture["alt"] for picture in page.pictures if "svg" in picture["src"][:20])


def test_the_page_needs_nothing_from_elsewhere(page, text):
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} == set(SECTIONS)
    assert not re.search(r"url\(|@import|import\b.*from|<script [^>]|<link|<iframe|fetch\(|XMLHttp|https?:", text)


def test_the_table_of_scores_says_what_the_summary_says(page):
    said = summary()
    header, *rows = page.tables["scores"]
    metrics = ["deletion \u2193", "faithfulness \u2191", "faithfulness normalised \u2191", "pearson skewness"]
    assert header == ["explainer", *metrics, "passes", "ms"]
    assert [row[0] for row in rows] == ["dre", "grad cam", "random"]
    entry = said["scores"]["random"]["faithfulness"]
    expected = f"{100 * entry['mean']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
    assert rows[2][2] == expected
    skewness = said["scores"]["dre"]["pearson_skewness"]
    assert rows[0][4].startswith(f"{skewness['mean']:.2f} [{skewness['low']:.2f}, ")
    assert rows[0][5:] == ["2 + 1", "12.5"]


def test_metrics_are_explained_below_their_table_where_a_run_says_what_they_are(text, undrawn_figures):
    said = summary() | {"definitions": {"deletion": "Compute the area <under> the curve.", "faithfulness": ""}}
    explained = report_html(replace(report(), summary=said))
    assert "<dt>deletion \u2193</dt><dd>Compute the area &lt;under&gt; the curve.</dd></dl>" in explained
    assert "What the metrics are" not in text


def test_the_best_and_what_is_not_told_apart_from_it_are_marked(page):
    said, kinds = summary(), page.kinds["scores"][1:]
    means = {name: said["scores"][name]["faithfulness"]["mean"] for name in NAMES}
    best = max(means, key=means.get)
    tied = "grad_cam" if best == "dre" else "dre"
    assert kinds[NAMES.index(best)][2] == "best"
    assert kinds[NAMES.index(tied)][2] == "tied"
    assert kinds[NAMES.index("random")][2] == ""
    assert kinds[NAMES.index("random")][1] == ""  # its deletion is the highest, and lower is better
    assert {row[4] for row in kinds} == {""}  # skewness has no better end


def test_missing_values_are_counted(page):
    rows = {row[0]: row[1:] for row in page.tables["missing"][1:]}
    assert rows["random"] == ["0 / 6", "1 / 0", "0 / 1", "0 / 0"]
    assert page.kinds["missing"][3][2] == "bad"
    assert rows["dre"][1] == "0 / 0"
    assert page.tables["failed"][1:] == [["evaluated but not explained", "2"], ["broken in the cache", "3"]]
    assert "skipped" not in page.tables


def test_skipped_images_stand_on_the_page_with_their_reason(undrawn_figures):
    said = replace(report(), summary=summary() | {"skipped": {"wren<3": "ValueError: torn"}})
    assert Page(report_html(said)).tables["skipped"][1:] == [["wren<3", "ValueError: torn"]]


def test_pairs_carry_tests_and_effects(page):
    header, *rows = page.tables["pairs-faithfulness"]
    assert header == ["difference", "mean", "Wilcoxon's p", "after Holm", "rank-biserial", "common images"]
    assert [row[0] for row in rows] == ["dre - grad cam", "dre - random", "grad cam - random"]
    assert rows[1][2:] == ["< 0.001", "< 0.001", "1.00", "29"]
    assert "All 3 pairs; 2 differ at 0.05 after Holm's correction" in page.text


def test_pictures_are_in_the_gallery_with_their_values_and_credits(page):
    assert page.tables["worst"][0] == ["image", "photograph", "dre", "grad cam", "random"]
    said = "explained: tabby <cat>, 83 %, right"
    assert page.tables["worst"][1] == ["photo <0> A & B", said, "25.0", "50.0", "12.5"]
    assert page.tables["worst"][2][1] == ""  # nothing is said where the class is not known
    assert [row.get("data-class") for row in page.rows["worst"]] == [None, "tabby <cat>, tiger", ""]
    photographs = [picture for picture in page.pictures if picture["src"].startswith("data:image/png")]
    shown = pixels(photographs[0])
    assert shown.shape == (20, 30, 3)
    assert shown.std() > 20


def test_the_cost_table(page):
    header, *rows = page.tables["cost"]
    assert header[:6] == ["explainer", "forwards", "backwards", "head backwards", "ms", "peak MB"]
    assert rows[0] == ["dre", "2", "1", "0", "12.5", "3", "-", "-", "30", "0"]
    assert header[6:] == ["scoring forwards", "scoring ms", "images", "from cache"]


def test_costs_that_few_runs_have_are_columns_where_there_are_any(undrawn_figures):
    usual = Tally(images=2, forwards=4).summary()
    second = Tally(images=2, transferred=2, transfer_forwards=24, transfer_seconds=0.1).summary()
    other = {"other_class_forwards": 1.0, "other_class_backwards": 2.0, "other_class_milliseconds": 7.0}
    header, *rows = Page(report_html(report(cost={"dre": usual, "random": second | other}))).tables["cost"]
    assert header[8:12] == ["transfer forwards", "transfer ms", "other class passes", "other class ms"]
    assert [row[8:12] for row in rows] == [["-", "-", "-", "-"], ["12", "50", "3", "7"]]


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"curves": None}, {"curves"}),
        ({"cost": {}}, {"costs"}),
        ({"worst": [], "best": []}, {"examples"}),
        ({"facts": {}, "files": {}}, {"run"}),
        ({"pictures": {}}, {"pictures"}),
        ({"images": None}, {"images"}),
        ({"images": images()[:0]}, {"images"}),
        ({"summary": summarise(scores()[:0])}, {"statistics"}),
        ({"summary": summarise(scores()[lambda rows: rows["explainer"] == "dre"])}, {"statistics"}),
    ],
    ids=[
        "no curves",
        "no cost",
        "no examples",
        "no facts",
        "no pictures",
        "no images",
        "no rows",
        "no scores",
        "one explainer",
    ],
)
def test_what_there_is_none_of_is_left_out(changes, absent, request):
    if "summary" not in changes:
        request.getfixturevalue("undrawn_figures")  # they are those of the page above
    else:
        changes = {"curves": None, "cost": {}, "worst": [], "best": [], "images": None} | changes
    page = Page(report_html(report(**changes)))
    assert absent.isdisjoint(page.ids)
    assert {"glance", "failures"} <= set(page.ids)


def test_the_same_content_gives_the_same_page(text):
    assert report_html(report()) == text


def test_names_from_data_are_escaped(text):
    assert "photo &lt;0&gt;" in text
    assert "&lt;network&gt; &amp; co" in text
    assert "<0>" not in text
    assert "<cat>" not in text


def test_each_image_has_a_row_with_its_class_and_values(page):
    header, *rows = page.tables["each-image"]
    assert header == ["image", "explained class", "probability", "prediction", "dre", "grad cam", "random"]
    assert [row[:4] for row in rows[:4]] == [
        ["image_00", "tabby <cat>", "83 %", "right"],
        ["image_01", "emu", "< 1 %", "wrong"],
        ["image_02", "class 7", "100 %", "-"],
        ["image_03", "-", "-", "-"],
    ]
    value = images().set_index(["key", "explainer"])["value"]["image_01", "grad_cam"]
    assert rows[1][5] == f"{100 * value:.1f}"
    assert rows[4][6] == "-"  # NaN
    assert [row["data-class"] for row in page.rows["each-image"][1:5]] == ["tabby <cat>, tiger", "emu", "7", ""]
    assert "12 of 30 images, in an order that a hash of their names gives" in page.text


def test_images_of_an_earlier_version_have_no_class(undrawn_figures):
    found = Page(report_html(report(images=images()[["key", "explainer", "metric", "value"]])))
    assert found.tables["each-image"][0] == ["image", "dre", "grad cam", "random"]
    assert not any("data-class" in row for row in found.rows["each-image"])


@pytest.fixture
def chromium():
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed; set CHROMIUM to one, or `playwright install chromium`")
    return browser


CLICK = """
for (const [table, place, times] of %s)
  for (let time = 0; time < times; time++)
    document.getElementById(table).tHead.rows[0].cells[place].querySelector("button").click();
"""


def test_a_click_on_a_title_sorts_by_its_column(page, html_file, tmp_path, chromium):
    act = CLICK % [["each-image", 6, 1], ["scores", 0, 2], ["missing", 2, 2], ["pairs-faithfulness", 5, 0]]
    shown = as_shown(chromium, html_file, tmp_path / "profile", act=act)
    rows = shown.tables["each-image"][1:]
    assert [row[6] for row in rows[:-1]] == sorted((row[6] for row in rows[:-1]), key=float)
    assert (rows[-1][0], rows[-1][6]) == ("image_04", "-")  # what is missing comes last
    assert sorted(rows) == sorted(page.tables["each-image"][1:])
    assert [row[0] for row in shown.tables["scores"][1:]] == ["random", "grad cam", "dre"]
    assert shown.tables["missing"][1][2] == "1 / 0"
    assert [head.get("aria-sort") for head in shown.heads["each-image"]] == [None] * 6 + ["ascending"]
    assert shown.heads["scores"][0]["aria-sort"] == "descending"
    assert not any("aria-sort" in head for head in shown.heads["pairs-faithfulness"])


def test_a_class_is_shown_alone(html_file, tmp_path, chromium):
    act = (
        CLICK % [["each-image", 2, 1]]
        + """
    for (const input of document.querySelectorAll("[type=search]")) {
      input.value = " TIGER";
      input.dispatchEvent(new Event("input"));
    }"""
    )
    shown = as_shown(chromium, html_file, tmp_path / "profile", act=act)
    assert [row[2] for row in shown.tables["each-image"][1::3]] == ["< 1 %", "83 %", "100 %", "-"]
    assert ["hidden" in row for row in shown.rows["each-image"][1:]] == [True] * 3 + [False] * 3 + [True] * 6
    assert ["hidden" in row for row in shown.rows["worst"][1:]] == [False, True]
    assert "3 of 12 rows" in shown.text


def test_a_narrow_page_does_not_scroll_sideways_and_its_galleries_wrap(tmp_path, chromium):
    long = dict.fromkeys(("a" * 300, "picture"), "b" * 300)
    wide = report(title="Evaluation " + "x" * 80, facts=long, files=long)
    text = report_html(wide)
    (tmp_path / "report.html").write_text(text)
    shown = as_shown(chromium, tmp_path / "report.html", tmp_path / "profile", width=390)
    assert float(shown.body["data-width"]) <= 390
    assert 300 < float(shown.sizes["worst"].split()[1]) < 390  # the table of pictures is as wide as its box
    assert shown.tables["scores"] == Page(text).tables["scores"]


def test_chromium_shows_every_table_and_picture(page, html_file, tmp_path, chromium):
    shown = as_shown(chromium, html_file, tmp_path / "profile")
    assert shown.tables == page.tables
    assert shown.rows["each-image"] == page.rows["each-image"]
    for picture in shown.pictures:
        natural, width, height = map(float, picture["data-size"].split())
        assert natural > 0, f"not decoded: {picture['alt']}"
        assert min(width, height) > 10
    folded = {name for name in shown.sizes if name.startswith("pairs-")}
    assert all(float(size.split()[1]) > 100 for name, size in shown.sizes.items() if name not in folded)
    assert float(shown.body["data-overflow"]) <= 0  # wide tables scroll within themselves


def test_recipes_of_one_kind_are_told_apart_by_what_differs():
    ours = {"variant": "dre", "lr": 0.01, "widths": [24, 32, 64], "constraints": {"area": 0.0}, "evidence": True}
    published = ours | {"widths": [16, 20, 56], "evidence": False}
    mgnet = {"variant": "mgnet", "lr": 0.001}
    lines = recipe_lines({"dre": ours, "dre_published": published, "mgnet": mgnet})
    assert lines == {
        "dre": "widths [24, 32, 64], evidence true",
        "dre_published": "widths [16, 20, 56], evidence false",
    }
    assert recipe_lines({"dre": ours, "mgnet": mgnet}) == {}
    assert recipe_lines({"dre": ours, "again": dict(ours)}) == {
        "dre": "that of the others",
        "again": "that of the others",
    }
    older = recipe_lines({"dre": ours, "old": None})
    assert older == {"old": "not in its checkpoint, which is of an earlier version"}
    of_before = {name: value for name, value in ours.items() if name != "evidence"}  # an option that came later
    assert recipe_lines({"dre": ours, "before": of_before})["before"] == "evidence none"
