"""The results pages: joint tables with their origins, charts, photographs of the demo set alone, and what git keeps."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from reproduction import pictures, results
from reproduction.pictures import MOST, read_chosen
from reproduction.results import LARGEST, LINK, build, old_files
from tests.command_line import REPOSITORY
from tests.reporting.runs import write_run

VALUES = {("dre", "explainability"): [0.9, 0.7, 0.8], ("grad_cam", "explainability"): [0.6, 0.7, 0.4]}


def run_with_pictures(place, demo: bool, **options):
    run = write_run(place, VALUES, **options)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("gallery.png", "salient_5.png", "xmgd.png"):
        Image.fromarray(noise).save(run / name)
    summary = json.loads((run / "summary.json").read_text())
    digest = hashlib.sha256((REPOSITORY / "data" / "demo" / "manifest.json").read_bytes()).hexdigest()
    summary |= {"reference": "dre", "data": {"manifest_sha256": {"x": digest if demo else "other"}}}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def test_tables_of_all_runs_and_photographs_of_the_demo_set_alone(tmp_path):
    demo = run_with_pictures(tmp_path / "a", True, tables=["dre_table4"], name="dre_figure7")
    other = run_with_pictures(
        tmp_path / "b", False, tables=["dre_table4"], network="torchvision/vgg19", data="x/imagenet"
    )
    lonely = run_with_pictures(tmp_path / "c", False, name="own", data="x/places")
    out = tmp_path / "docs"
    build([demo, other, lonely], [], out, everything=True)
    written = {path.name for path in out.iterdir()}
    assert {"dre.md", "other.md", "README.md"} == {name for name in written if name.endswith(".md")}
    assert "dre_figure7_tf_efficientnet_lite0_demo_gallery.png" in written
    assert {name for name in written if "gallery" in name or "salient" in name} == {
        "dre_figure7_tf_efficientnet_lite0_demo_gallery.png",
        "dre_figure7_tf_efficientnet_lite0_demo_salient_5.png",
    }
    assert sum("xmgd" in name for name in written) == 3
    text = (out / "dre.md").read_text()
    assert "**tf_efficientnet_lite0, demo (3)** | **torchvision/vgg19, imagenet (3)**" in text
    assert text.count("commit abc, 1, torch 2.") == 2
    assert text.startswith("# Fu et al. 2021\n\n## Fu et al. 2021, table 4\n")
    assert text.index("### dre_figure7, tf_efficientnet_lite0, demo (3)") < text.index("_gallery.png)")
    assert "## own: tf_efficientnet_lite0, places (3)\n" in (out / "other.md").read_text()
    links = [name for path in out.glob("*.md") for name in LINK.findall(path.read_text())]
    assert sorted(links) == sorted(written - {"README.md"})
    command = "python -m reproduction.results build PATH/a PATH/b PATH/c --everything\n"
    assert command in (out / "README.md").read_text()


def test_pictures_in_git_are_those_of_the_list_with_what_they_show(tmp_path, monkeypatch):
    chosen = tmp_path / "pictures.yaml"
    chosen.write_text("own_tf_efficientnet_lite0_demo_xmgd.png: Distances.\nabsent.png: Of no run here.\n")
    monkeypatch.setattr(pictures, "CHOSEN", chosen)
    runs = [run_with_pictures(tmp_path / name, True, name=name) for name in ("own", "dre_figure7")]
    (runs[0] / "report.html").write_text("<html></html>")
    build(runs, [], tmp_path / "docs")
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {
        "README.md", "dre.md", "other.md", "own_tf_efficientnet_lite0_demo_xmgd.png"
    }  # fmt: skip
    assert "Distances.\n\n![xmgd](own_tf_efficientnet_lite0_demo_xmgd.png)" in (tmp_path / "docs/other.md").read_text()
    chosen.write_text("".join(f"{number}.png: One.\n" for number in range(MOST + 1)))
    with pytest.raises(ValueError, match=rf"names {MOST + 1} pictures, at most {MOST} are kept in git"):
        build(runs, [], tmp_path / "docs")


def test_the_committed_pages_are_small_and_have_the_pictures_of_the_list():
    folder = REPOSITORY / "docs" / "results"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST
    assert {path.name for path in folder.iterdir() if path.suffix != ".md"} == set(read_chosen())


def test_an_old_page_is_replaced_and_kept_when_something_is_wrong(tmp_path, monkeypatch):
    out = tmp_path / "docs"
    runs = [run_with_pictures(tmp_path / "a", True), run_with_pictures(tmp_path / "c", False, name="own")]
    build(runs, [], out, everything=True)
    old = out / "own_tf_efficientnet_lite0_demo_xmgd.png"
    with pytest.raises(ValueError, match=r"b was only tried out \(--smoke\)"):
        build([run_with_pictures(tmp_path / "b", True, smoke=True)], [], out)
    with pytest.raises(FileNotFoundError, match=r"no PNG under .*nothing; `python -m reproduction\.controller`"):
        build([tmp_path / "a"], [tmp_path / "nothing"], out)
    monkeypatch.setattr(results, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"MB are more than 0\.001: leave out runs or pictures"):
        build([tmp_path / "a"], [], out)
    assert old.exists()
    monkeypatch.undo()
    monkeypatch.chdir(REPOSITORY)
    build([tmp_path / "a"], [], out)
    assert not old.exists()
    build([tmp_path / "a"], [], out)


@pytest.mark.parametrize("place", ["notes.md", "figures/a.png", "README.md"])
def test_a_folder_with_files_of_others_is_refused_and_kept(tmp_path, place):
    run, out = run_with_pictures(tmp_path / "a", True), tmp_path / "docs"
    if place != "README.md":
        build([run], [], out)
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).write_text("# Notes\n- [own](own.md)\n")
    before = sorted(out.rglob("*"))
    with pytest.raises(ValueError, match=rf"{place.split('/')[0]} is not of an older results page; give another"):
        build([run], [], out)
    assert sorted(out.rglob("*")) == before


def test_every_committed_file_of_the_results_page_can_be_replaced():
    folder = REPOSITORY / "docs" / "results"
    assert set(old_files(folder)) == set(folder.iterdir())


def test_runs_that_are_alike_have_pages_and_pictures_of_their_own(tmp_path):
    places = [("mine", "001"), ("mine", "002"), ("other", "002")]
    runs = [run_with_pictures(tmp_path / folder / number, False, name="own") for folder, number in places]
    out = tmp_path / "docs"
    build(runs, [], out, everything=True)
    slugs = [f"own_tf_efficientnet_lite0_demo_{own}" for own in ("001", "mine_002", "other_002")]
    assert {path.name for path in out.glob("own*")} == {f"{one}_xmgd.png" for one in slugs}
    page = (out / "other.md").read_text()
    assert "### own, tf_efficientnet_lite0, demo (3), run 001\n" in page
    assert "### own, tf_efficientnet_lite0, demo (3), run other/002\n" in page
    with pytest.raises(ValueError, match=r"001 and .*001 would both be called own_tf_efficientnet_lite0_demo_mine_001"):
        build([runs[0], runs[0]], [], out)


def test_data_whose_name_begins_with_that_of_others_has_a_section_of_its_own(tmp_path):
    runs = [run_with_pictures(tmp_path / data, False, data=f"x/{data}") for data in ("demo", "demo_b")]
    build(runs, [], tmp_path / "docs", everything=True)
    figures = (tmp_path / "docs" / "dre.md").read_text().split("## Figures")[1].split("## Runs")[0]
    first, second = figures.split("\n### ")[1:]
    assert "lite0_demo_xmgd.png" in first
    assert "lite0_demo_b_xmgd.png" not in first
    assert second.startswith("dre_table3, tf_efficientnet_lite0, demo_b (3)\n\nxmgd\n\n![xmgd](")


def test_ranks_are_shown_of_runs_of_tables_and_not_again_for_a_min_max(tmp_path):
    runs = [
        run_with_pictures(tmp_path / "a", False, tables=["dre_table4"]),
        run_with_pictures(tmp_path / "b", False, name="own"),
    ]
    for run in runs:
        for metric in ("faithfulness", "faithfulness_normalised"):
            (run / f"critical_difference_{metric}.png").write_bytes((run / "xmgd.png").read_bytes())
    build(runs, [], tmp_path / "docs", everything=True)
    ranks = [path.name for path in (tmp_path / "docs").glob("*critical_difference*")]
    assert ranks == ["dre_table3_tf_efficientnet_lite0_demo_critical_difference_faithfulness.png"]


MADE = {
    "command": "python -m reproduction.controller --h 2",
    "commit": "abc",
    "started": "1",
    "packages": {"torch": "2"},
}


def test_charts_say_what_made_them(tmp_path):
    run = run_with_pictures(tmp_path / "a", False)
    for name, record in (("controller", MADE), ("own", {})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.png").write_bytes((run / "xmgd.png").read_bytes())
        if record:
            (folder / "made.json").write_text(json.dumps(record))
    build([run], [tmp_path / "controller", tmp_path / "own"], tmp_path / "docs", everything=True)
    page = (tmp_path / "docs" / "README.md").read_text()
    assert "- controller: `python -m reproduction.controller --h 2`; commit abc, 1, torch 2.\n- own: charts.\n" in page


def test_charts_of_one_name_are_refused(tmp_path):
    folders = [run_with_pictures(tmp_path / name, False) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"a/gallery\.png and .*b/gallery\.png would both be called gallery\.png"):
        build([folders[0]], folders, tmp_path / "docs", everything=True)


def test_the_report_is_kept_of_the_default_run_on_demo_photographs_alone(tmp_path):
    runs = [run_with_pictures(tmp_path / str(demo), demo, name="demo", data=f"x/{demo}") for demo in (True, False)]
    runs.append(run_with_pictures(tmp_path / "figure", True, name="dre_figure7"))
    for run in runs:
        (run / "report.html").write_text("<html></html>")
    build(runs, [], tmp_path / "page", everything=True)
    assert [path.name for path in (tmp_path / "page").glob("*.html")] == ["demo_tf_efficientnet_lite0_True_report.html"]
    assert "](demo_tf_efficientnet_lite0_True_report.html)" in (tmp_path / "page" / "README.md").read_text()
    build(runs[:1], [], tmp_path / "page", everything=True)  # it knows its own
