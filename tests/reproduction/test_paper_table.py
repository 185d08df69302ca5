"""Paper tables: printed figures are kept, ours are in place, gaps have reasons, differences are named."""

import json
import re

import pandas as pd
import pytest
import yaml

from dre.api import catalogue
from dre.runs.results import RunResults, without_folders
from reproduction.claims import read_runs
from reproduction.paper_table import differences, join, joint_json, joint_markdown
from reproduction.papers import paper_table_file, read_paper_table
from reproduction.results import main
from tests.command_line import REPOSITORY
from tests.reporting.runs import write_run

FILES = sorted((REPOSITORY / "configs" / "papers").glob("*.yaml"))
NUMBER = re.compile(r"-?\d*\.?\d+(\(±\d\.\d+\))?")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def run(tmp_path):
    values = {
        ("dre", "faithfulness"): [0.9, 0.7, 0.8],
        ("grad_cam", "faithfulness"): [0.6, 0.7, 0.4],
        ("random", "faithfulness"): [0.1, 0.2, 0.3],
    }
    return write_run(tmp_path / "001", values)


def rows_of(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].rstrip(" †").strip("*"): row[1:] for row in cells}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_fills_its_table_with_figures_and_names_what_there_is(path):
    table = read_paper_table(path)
    for figures in table.figures:
        assert all(figure == "-" or NUMBER.fullmatch(figure) for figure in figures), figures
    known = {
        entry.at["explainer"].removesuffix("+idgi").removesuffix("_signed").removesuffix("_magnitude")
        for entry in (*table.rows, *table.columns)
        if "explainer" in entry.at
    }
    methods = set(catalogue()) | {"dre", "dre_published", "mgnet"}
    assert known <= methods


def test_means_that_a_paper_prints_are_those_of_its_figures():
    """A check of what was copied: the columns MEAN of Fu et al. 2021."""
    for name, columns in (("dre_table3", (0, 4)), ("dre_table4", (0,))):
        table = read_paper_table(paper_table_file(name))
        for row, figures in zip(table.rows, table.figures, strict=True):
            for first in columns:
                *three, mean = map(float, figures[first : first + 4])
                assert abs(sum(three) / 3 - mean) < 0.0101 or (row.label, name) in PRINTED_OTHERWISE, (
                    row.label,
                    figures,
                )


PRINTED_OTHERWISE = {("MPert", "dre_table3")}


def test_fewer_steps_never_have_another_row_than_the_table_of_128_has():
    full = read_paper_table(paper_table_file("idgi_table1"))
    for number in (6, 9, 12, 15):
        part = read_paper_table(paper_table_file(f"idgi_table{number}"))
        assert [row.label for row in part.rows] == [row.label for row in full.rows]
        gained = float(full.figures[3][1]) - float(part.figures[3][1])
        assert gained > 0  # IG + IDGI on InceptionV3 gains with steps
    eight = read_paper_table(paper_table_file("idgi_table15"))
    table_4 = read_paper_table(paper_table_file("idgi_table4"))
    for row, column in (("IG", 0), ("IG + IDGI", 1)):
        printed = float(table_4.figures[[one.label for one in table_4.rows].index(row)][0])
        assert float(full.figures[3][column]) - float(eight.figures[3][column]) == pytest.approx(printed, abs=1e-3)


def test_ours_stands_beside_the_papers_figures_with_its_interval(run):
    text = joint_markdown(join(read_paper_table(paper_table_file("dre_table3")), [RunResults(run)]))
    rows = rows_of(text)
    assert rows["GCAM"][:4] == ["70.13", "64.56", "67.84", "67.51"]
    scaled = RunResults(run).summary["scores"]["grad_cam"]["faithfulness_normalised"]
    assert rows["GCAM"][-1].startswith(f"{100 * scaled['mean']:.2f} [{100 * scaled['low']:.2f}, ")
    assert "scaled across dre, grad_cam, random" in text


def test_a_missing_cell_shows_the_hole_and_its_reason_and_lonely_figures_are_marked(run):
    joint = join(read_paper_table(paper_table_file("dre_table3")), [RunResults(run)])
    text = joint_markdown(joint)
    rows = rows_of(text)
    assert rows["MGnet"][-1] == "- (2)"
    assert "(2) no." in text  # as the record of the run says
    assert rows["DRE, published recipe"][-1] == rows["MPert"][-1] == "- (1)"
    assert "(1) not evaluated in this run." in text
    assert "| MGnet † |" in text
    assert "| GCAM |" in text
    lonely = {entry.label for entry in joint.lonely}
    assert {"ResNet50", "MGnet"} <= lonely
    assert "DRE" not in lonely


VALUES = {("dre", "faithfulness"): [0.9, 0.7], ("grad_cam", "faithfulness"): [0.6, 0.8]}


def test_a_run_on_the_papers_network_and_data_is_its_counterpart(tmp_path):
    same = write_run(tmp_path / "a", VALUES, network="torchvision/vgg19", data="shards/imagenet")
    joint = join(read_paper_table(paper_table_file("dre_table3")), [RunResults(same)])
    text = joint_markdown(joint)
    assert "ImageNet VGG19 |" in text
    assert "Birds VGG19 † |" in text
    assert "ImageNet ResNet50 † |" in text


def test_a_network_of_timm_is_that_of_torchvision_in_the_table(tmp_path):
    run = RunResults(write_run(tmp_path / "a", VALUES, network="mobilenetv2_100"))
    assert run.is_about({"network": "torchvision/mobilenet_v2"})
    assert not run.is_about({"network": "torchvision/resnet50"})
    text = joint_markdown(join(read_paper_table(paper_table_file("idgi_table1")), [run]))
    assert "| MobileNetV2 |" in text
    assert "counterpart among these runs: DenseNet121, DenseNet169," in text


def test_what_has_no_counterpart_is_named_with_the_network_that_it_is_of(tmp_path):
    run = RunResults(write_run(tmp_path / "a", VALUES, network="tf_efficientnet_lite0"))
    names = "Inception v3 SIC, Inception v3 AIC, ResNet 101 SIC, ResNet 101 AIC"
    assert names in joint_markdown(join(read_paper_table(paper_table_file("ggig_table2")), [run]))
    table = joint_markdown(join(read_paper_table(paper_table_file("idgi_table5")), [run]))
    assert "| InceptionV3 -log MSE † |" in table


def trained_here(run):
    """Say in its configuration that the classifier comes from a training of ours."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    weights = "runs/classifier_birds_resnet50/001/checkpoints/last.ckpt"
    config["model"]["classifier"]["init_args"]["weights"] = weights
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_the_network_is_the_papers_whatever_its_weights_and_the_data_decide_the_column(tmp_path):
    birds = trained_here(write_run(tmp_path / "a", VALUES, network="torchvision/resnet50", data="shards/birds"))
    text = joint_markdown(join(read_paper_table(paper_table_file("dre_table3")), [RunResults(birds)]))
    assert "**torchvision/resnet50 classifier_birds_resnet50, birds (2)**" in text
    assert "| Birds ResNet50 |" in text
    assert "| ImageNet ResNet50 † |" in text
    assert RunResults(write_run(tmp_path / "b", VALUES, network="vit_tiny.augreg_in21k")).is_about(
        {"network": "vit_tiny"}
    )


def test_places_have_their_counterpart_too(tmp_path):
    run = trained_here(write_run(tmp_path / "a", VALUES, network="torchvision/resnet50", data="shards/places"))
    joint = join(read_paper_table(paper_table_file("dre_table5")), [RunResults(run)])
    assert joint.lonely == []


THREE = ("torchvision/resnet50", "torchvision/vgg19", "torchvision/googlenet")


def runs_of(place, networks, data="shards/imagenet"):
    for number, network in enumerate(networks):
        values = {("dre", "explainability"): [0.1 * number, 0.3], ("grad_cam", "explainability"): [0.6, 0.8]}
        if number == 0:
            del values["grad_cam", "explainability"]
        yield RunResults(write_run(place / f"{number}", values, network=network, data=data))


def test_the_mean_of_the_papers_networks_is_that_of_our_runs(tmp_path):
    runs = list(runs_of(tmp_path, [*THREE, "torchvision/vgg19"]))  # the first run of a network counts
    text = joint_markdown(join(read_paper_table(paper_table_file("dre_table4")), runs))
    rows = rows_of(text)
    assert "**mean of 3 networks, imagenet (2 + 2 + 2)**" in text
    assert "| ImageNet MEAN |" in text
    assert rows["DRE"][-1] == "20.00"  # of 0.15, 0.20 and 0.25
    assert rows["GCAM"][-1].startswith("- (")
    assert "no mean, for torchvision/resnet50: not evaluated in this run." in text
    assert "each weighs alike; there is no interval" in text
    assert "† has no counterpart" in text
    assert "ResNet50 †" not in text


def test_a_mean_that_lacks_a_network_is_a_hole_that_says_which(tmp_path):
    joint = join(read_paper_table(paper_table_file("dre_table4")), list(runs_of(tmp_path, THREE[1:])))
    text = joint_markdown(joint)
    assert rows_of(text)["DRE"][-1].startswith("- (")
    assert "the mean needs a run of torchvision/resnet50." in text
    assert "| ImageNet MEAN † |" in text
    json.dumps(joint_json(joint))


def test_data_without_any_of_the_networks_have_no_column_of_means(tmp_path):
    (run,) = runs_of(tmp_path, ["torchvision/vgg19"], data="shards/birds")
    text = joint_markdown(join(read_paper_table(paper_table_file("dre_table4")), [run]))
    assert "mean of" not in text


def test_rows_about_networks_are_followed_by_one_of_each_run(tmp_path):
    values = {("integrated_gradients", "insertion_idgi"): [0.2, 0.4], ("blur_ig", "insertion_idgi"): [0.1, 0.3]}
    runs = [write_run(tmp_path / name, values, network=name) for name in ("one", "two")]
    joint = join(read_paper_table(paper_table_file("idgi_table1")), [RunResults(run) for run in runs])
    text = joint_markdown(joint)
    assert len(joint.rows) == 20 + 2 * 2
    assert rows_of(text)["one, demo (2)"][0].startswith("- (")  # the last block, of the ratio, was not computed
    assert "0.300 [0.200, 0.400]" in text
    assert "insertion_idgi_ratio: not computed in this run" in text


def test_settings_other_than_the_papers_are_pointed_out(tmp_path):
    values = {("ggig", "sic_ggig"): [0.5, 0.6], ("random", "sic_ggig"): [0.2, 0.1]}
    run = write_run(tmp_path / "a", values, explainers={"ggig": {"points": 8, "ascents": 25}})
    joint = join(read_paper_table(paper_table_file("ggig_table2")), [RunResults(run)])
    said = " ".join(differences(joint))
    assert "ggig: points 8 instead of 25" in said
    assert "ggig: ascents 25 instead of 200" in said
    assert "weights package (paper: Inception v3, ResNet101)" in said


def test_a_run_by_masks_says_so_below_a_table_that_shows_them(tmp_path):
    run = RunResults(write_run(tmp_path / "a", {("dre", "explainability"): [1.0, 0.5], ("dre", "entropy"): [0.1, 0.2]}))
    table = read_paper_table(paper_table_file("dre_table4"))
    assert "objects are masks" not in " ".join(differences(join(table, [run])))
    run.summary["annotations"] = {"mask": 1, "box": 1, "none": 0, "metrics": ["explainability", "pointing_game"]}
    found = [line for line in differences(join(table, [run])) if "objects are masks" in line]
    assert [line.partition(", which")[0] for line in found] == [
        f"{run.place}: `explainability`: objects are masks in 1 image and boxes in 1 image"
    ]
    run.summary["annotations"] |= {"mask": 0, "box": 2}
    assert "objects are masks" not in " ".join(differences(join(table, [run])))


def test_a_run_that_was_only_tried_out_says_so(tmp_path):
    run = write_run(tmp_path / "a", {("dre", "faithfulness"): [1.0, 0.5]}, smoke=True)
    assert "these are no results" in joint_markdown(
        join(read_paper_table(paper_table_file("dre_table3")), [RunResults(run)])
    )


def test_medians_deviations_and_areas_of_median_curves_are_no_means(tmp_path):
    values = {("ggig", "input_spearman"): [0.1, 0.2, 0.6], ("ggig", "sic_ggig"): [0.5, 0.5, 0.5]}
    run = write_run(tmp_path / "a", values)
    curve = {
        "metric": "sic_ggig",
        "explainer": "ggig",
        "aggregate": "median",
        "x": [0.0, 0.5, 1.0],
        "y": [0.0, 1.0, 1.0],
    }
    pd.DataFrame(curve).to_parquet(run / "curves.parquet")
    results = RunResults(run)
    assert results.measured({"explainer": "ggig", "metric": "input_spearman", "statistic": "median"}).value == 0.2
    deviation = results.measured({"explainer": "ggig", "metric": "input_spearman", "statistic": "std"}).value
    assert deviation == pytest.approx(((0.2**2 + 0.1**2 + 0.3**2) / 2) ** 0.5)
    area = results.measured({"explainer": "ggig", "metric": "sic_ggig"})
    assert (area.value, area.low) == (0.75, None)


def test_our_columns_are_told_apart_where_labels_are_alike(tmp_path):
    values = {("ggig", "input_spearman"): [0.1, 0.2, 0.6]}
    run = RunResults(write_run(tmp_path / "a", values))
    header = joint_markdown(join(read_paper_table(paper_table_file("ggig_table1")), [run])).splitlines()[4]
    ours = [cell.strip() for cell in header.split("|") if run.label in cell]
    assert len(ours) == len(set(ours)) == 8
    assert ours[0] == f"{run.label}: Spearman median"


def test_a_run_is_known_by_its_run_file_whatever_it_was_called(run):
    record = json.loads((run / "run.json").read_text())
    for command, name in (
        ("python evaluate.py --config configs/evaluate/ggig_table2.yaml --name mine", "ggig_table2"),
        ("python evaluate.py --config=a.yaml --config=b/idgi.v2.yaml", "idgi.v2"),
        ("python evaluate.py", "dre_table3"),
        ("python evaluate.py --config '/my runs/ggig_table2.yaml' --name mine", "ggig_table2"),
        ("python evaluate.py -c results/mine/001/config.yaml", "dre_table3"),
    ):
        (run / "run.json").write_text(json.dumps(record | {"command": command}))
        assert RunResults(run).name == name
    (run / "run.json").write_text(
        json.dumps(record | {"command": "python x --config a.yaml", "run_file": "idgi_table5"})
    )
    assert RunResults(run).name == "idgi_table5"


def test_folders_of_a_machine_are_not_passed_on():
    command = "python /home/me/evaluate.py --config configs/evaluate/a.yaml --data.root=/data/big/imagenet --out https://a/b/c"
    expected = "python evaluate.py --config configs/evaluate/a.yaml --data.root=PATH/imagenet --out https://a/b/c"
    assert without_folders(command) == expected


def test_studies_and_costs_are_read_where_they_are(tmp_path):
    run = write_run(tmp_path / "a", {("ggig", "faithfulness"): [0.1, 0.2]})
    point = {
        "explainer": "ggig",
        "quantity": "steps_faithfulness",
        "x": 8.0,
        "mean": 0.3,
        "low": 0.2,
        "high": 0.4,
        "count": 5,
    }
    study = {"logged": {"ggig/steps_faithfulness_gained": 0.25}, "images": {"studied": 5}, "points": [point]}
    (run / "step_study.json").write_text(json.dumps(study))
    (run / "cost.json").write_text(json.dumps({"ggig": {"forwards": 12.0}}))
    results = RunResults(run)
    at = {"explainer": "ggig", "study": "step_study", "quantity": "steps_faithfulness", "x": 8}
    assert results.measured(at).low == 0.2
    assert "not measured" in results.measured({**at, "x": 16}).reason
    assert results.measured({**at, "study": "jpeg_stability"}).reason.startswith("jpeg_stability: not part of this run")
    gained = {"explainer": "ggig", "study": "step_study", "quantity": "steps_faithfulness_gained"}
    assert results.measured(gained).value == 0.25
    assert results.measured({"explainer": "ggig", "cost": "forwards"}).value == 12
    assert results.measured({"explainer": "ggig", "cost": "backwards"}).reason == "backwards was not counted"
    assert results.measured({"metric": "faithfulness"}).reason == "nothing of ours belongs to this figure"


def with_distances(place):
    values = {(name, "average_drop_logit"): [0.1, 0.2] for name in ("integrated_gradients", "deep_lift", "random")}
    run = write_run(place, values)
    distances = {
        "explainers": ["integrated_gradients", "deep_lift", "random"],
        "maps": {"integrated_gradients": 2, "deep_lift": 2, "random": 0},
        "root": [[0.0, 0.25, None], [0.25, 0.0, None], [None, None, None]],
        "comparisons": {"kullback_leibler": {"mean": [[None, 1.0, 2.0], [3.0, None, 4.0], [5.0, 6.0, None]]}},
    }
    (run / "xmgd.json").write_text(json.dumps(distances))
    return RunResults(run)


def test_the_distance_of_an_explainer_is_the_mean_of_those_to_the_others(tmp_path):
    run = with_distances(tmp_path / "a")
    mean = run.measured({"explainer": "integrated_gradients", "distance": "xmgd"})
    assert (mean.value, mean.low, mean.count) == (0.25, None, 2)
    assert run.measured({"explainer": "deep_lift", "distance": "kullback_leibler"}).value == 3.5
    assert run.measured({"explainer": "deep_lift", "distance": "earth_mover"}).reason.startswith("earth_mover: not")
    assert "random has no distance" in run.measured({"explainer": "random", "distance": "xmgd"}).reason
    without = RunResults(write_run(tmp_path / "b", {("dre", "average_drop_logit"): [0.1, 0.2]}))
    assert "not part of this run" in without.measured({"explainer": "dre", "distance": "xmgd"}).reason


def test_the_posters_table_has_xmgd_beside_the_confidence_metrics_and_its_correlations(tmp_path):
    joint = join(read_paper_table(paper_table_file("xmgd_table1")), [with_distances(tmp_path / "a")])
    text = joint_markdown(joint)
    assert [row.entry.label for row in joint.rows] == ["IIC ↑", "AD ↓", "ADD ↑", "XMGD"]
    assert rows_of(text)["XMGD"][:7:2] == ["", "", "0.250", "0.250"]  # the poster prints none
    assert "mean distance to the others of integrated_gradients, deep_lift, random" in text
    (beside,) = joint_json(joint)["beside"]
    assert list(beside["figures"].values()) == [0.813, 0.810, 0.742]
    assert "Beside the table (preserved correlations between detectors and generators)" in text
    assert "the same detector: 0.810" in text


def test_the_joint_table_as_plain_values_has_every_figure(run):
    content = json.loads(
        json.dumps(joint_json(join(read_paper_table(paper_table_file("dre_table3")), [RunResults(run)])))
    )
    assert len(content["paper"]) == 88
    assert len(content["ours"]) == 11
    assert {"DRE", "GCAM"} == {entry["row"] for entry in content["ours"] if entry["value"] is not None}


def test_runs_whose_masked_images_were_scored_in_bfloat16_are_refused(run):
    saved = run.directory / "config.yaml" if isinstance(run, RunResults) else run / "config.yaml"
    content = yaml.safe_load(saved.read_text())
    content["model"]["sweep_precision"] = "bfloat16"
    saved.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"scored its masked images in bfloat16.*without --model\.sweep_precision"):
        join(read_paper_table(paper_table_file("dre_table2")), [RunResults(saved.parent)])
    with pytest.raises(ValueError, match="scored its masked images in bfloat16"):
        read_runs([saved.parent])


def test_one_command_joins_several_runs(run, tmp_path, capsys):
    other = write_run(
        tmp_path / "002", {("dre", "faithfulness"): [0.5, 0.6], ("grad_cam", "faithfulness"): [0.1, 0.2]}, network="b"
    )
    main(["table", "dre_table3", str(run), str(other)])
    said = capsys.readouterr().out
    assert "**tf_efficientnet_lite0, demo (3)** | **b, demo (2)**" in said


def test_what_is_missing_is_said_in_a_line(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table 'dre_tabel3' of a paper; did you mean dre_table3"):
        main(["table", "dre_tabel3", str(run)])
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there: it has no config\.yaml; `python evaluate\.py"):
        main(["table", "dre_table3", str(tmp_path / "nowhere")])
    (run / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"001 is no finished evaluation: it has no summary\.json"):
        main(["table", "dre_table3", str(run)])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": [{"label": "a", "figures": "1 2"}]}, "row 'a' has 2 figures for 1 columns"),
        ({"columns": [{"label": "b", "metrc": "x"}]}, "'b' has the coordinate 'metrc'; known: network"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, changes, line):
    content = {
        "source": "s",
        "place": "p",
        "caption": "c",
        "columns": [{"label": "b"}],
        "rows": [{"label": "a", "figures": "1"}],
    }
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    with pytest.raises(ValueError, match=line):
        read_paper_table(path)
