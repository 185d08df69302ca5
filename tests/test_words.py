"""Terms of the field: each is in the first line of the one module that holds its formula."""

import ast
import re
import subprocess

import pytest

from tests.command_line import REPOSITORY

TERMS = {
    r"\bM_F\b": ("dre/metrics/m_f.py", "faithfulness"),
    r"skew controller": ("dre/models/controller.py", "SkewController"),
    r"spatial filter": ("dre/models/generator.py", "SpatialFilter"),
    r"\bIDGI\b": ("dre/explainers/paths/integration.py", "idgi"),
    r"\bmax_dist\b": ("dre/explainers/paths/guided.py", "GuidedPath"),
    r"\bSAMP\b.*\bconstraint\b": ("dre/explainers/paths/samp.py", "SampPath"),
    r"\bGGIG\b": ("dre/explainers/ggig.py", "GGIG"),
    r"\bMW2\b": ("dre/mixtures/transport.py", "mixture_distances"),
    r"\bSIC\b.*\bmedian\b": ("dre/metrics/information_curves.py", "SoftmaxInformationCurve"),
    r"\bMS-SSIM\b": ("dre/images/information.py", "ms_ssim"),
    r"sigma perturbation": ("dre/models/randomisation.py", "add_noise"),
    r"exactly once": ("data/streams.py", "EvaluationStream"),
    r"\bresume\b": ("callbacks/resume.py", "EvaluationResume"),
    r"\bcache key\b": ("dre/caching/cache_key.py", "ExplainerKeys"),
    r"\bbootstrap\b": ("dre/statistics/intervals.py", "bootstrap_means"),
    r"\bDRE\+": ("dre/explainers/learned.py", "remaining_gain"),
    r"\bMGnet\b.*\bloss|\b[Ll]oss\b.*\bMGnet\b": ("dre/engine/objectives.py", "objective"),
    r"\bJPEG\b": ("callbacks/studies/stability.py", "JpegStability"),
    r"\bblend\b": ("dre/images/fill.py", "blend"),
    r"min-max across explainers": ("dre/statistics/tables.py", "normalise_across_explainers"),
}
"""Term -> the module whose first line has it, and what is defined there."""

PACKAGES = ("dre", "callbacks", "data", "reproduction", "benchmarks")
TRACKED = subprocess.run(
    ["git", "ls-files", *(f"{package}/*.py" for package in PACKAGES)], cwd=REPOSITORY, capture_output=True, text=True
).stdout.split()
FILES = TRACKED or sorted(
    path.relative_to(REPOSITORY).as_posix() for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
)
"""Those in git; all where the sources lie in no repository."""

TREES = {file: ast.parse((REPOSITORY / file).read_text()) for file in FILES if (REPOSITORY / file).is_file()}
FIRST_LINES = {file: (ast.get_docstring(tree) or "").partition("\n")[0] for file, tree in TREES.items()}


@pytest.mark.parametrize("term", TERMS)
def test_a_term_leads_to_the_one_module_that_holds_its_formula(term):
    module, name = TERMS[term]
    assert [file for file, line in FIRST_LINES.items() if re.search(term, line)] == [module]
    assert name in {getattr(node, "name", None) for node in TREES[module].body}


def test_first_lines_name_the_thing():
    riddles = re.compile(r"(What|How|Whether|Which|Where|Why|Does|Is|Are)\b")
    assert [file for file, line in FIRST_LINES.items() if not line or riddles.match(line)] == []


def test_long_modules_say_why():
    long = [file for file in TREES if len((REPOSITORY / file).read_text().splitlines()) > 300]
    assert [file for file in long if "300 lines" not in (ast.get_docstring(TREES[file]) or "")] == []
