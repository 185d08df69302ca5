"""Page of one run: metrics, studies, settings, and what is missing."""

import json

from dre.runs.results import RunResults
from reproduction.run_page import COLUMNS, run_text
from tests.reporting.runs import write_run

VALUES = {("ggig", "explainability"): [0.9, 0.7, 0.8], ("random", "explainability"): [0.6, 0.7, 0.4]}


def point(explainer, quantity, x, mean, low=None, high=None):
    return {"explainer": explainer, "quantity": quantity, "x": x, "mean": mean, "low": low, "high": high}


def run_of(tmp_path, points=None, left_out=None, labels=None, **options):
    directory = write_run(tmp_path / "run", VALUES, **options)
    record = json.loads((directory / "run.json").read_text())
    record.pop("left_out")
    (directory / "run.json").write_text(json.dumps(record | ({"left_out": left_out} if left_out else {})))
    summary = json.loads((directory / "summary.json").read_text())
    (directory / "summary.json").write_text(json.dumps(summary | {"reference": "ggig"}))
    if points is not None:
        study = {"study": "weight_perturbation", "images": {"studied": 3}, "points": points} | (labels or {})
        (directory / "weight_perturbation.json").write_text(json.dumps(study))
    return RunResults(directory)


def test_points_of_a_study_stand_beside_those_of_the_same_explainers(tmp_path):
    points = [point("ggig", quantity, x, x / 4, 0.0, 1e-9) for quantity in ("similar", "other") for x in (0.0, 0.5)]
    points += [point("classifier", "probability", 0.5, None)]  # at one place, which is no column then
    text = run_text(run_of(tmp_path, points))
    assert "Study `weight_perturbation` of 3 images." in text
    assert "| explainer | x | similar | other |" in text
    assert "| ggig | 0.5 | 0.12 [0.00, 1.0e-09] | 0.12 [0.00, 1.0e-09] |" in text
    assert "| explainer | probability |\n| --- | ---: |\n| classifier | - |" in text


def test_numbers_that_explainers_were_set_to_and_what_was_left_out_are_said(tmp_path):
    options = {"ggig": {"points": 8, "lr": 1e-4, "score": "logit", "magnitude": False, "chunk": None, "seed": 0}}
    text = run_text(run_of(tmp_path, explainers=options, left_out={"mgnet": "no checkpoint under /home/me/runs/x"}))
    assert "- `ggig`: lr 0.0001, points 8.\n- `mgnet` is left out: no checkpoint under PATH/x.\n" in text
    assert "Study" not in text
    assert "`random`:" not in text


def test_many_quantities_are_cut_into_tables_and_x_has_its_label(tmp_path):
    names = [f"q{number}" for number in range(COLUMNS + 1)]
    points = [point("ggig", name, x, 0.25, 0.0, 1.0) for name in names for x in (0.5, 1.0)]
    labels = {"x_labels": dict.fromkeys(names, "sigma")}
    text = run_text(run_of(tmp_path, points, labels=labels))
    assert f"| explainer | sigma | {' | '.join(names[:COLUMNS])} |" in text
    assert f"| explainer | sigma | {names[COLUMNS]} |" in text
    assert "left out" not in text
