"""Score explainers of one classifier: `python evaluate.py [--config FILE]`, `python evaluate.py --help`."""

from dre.cli.evaluation import EvaluationCommandLine
from dre.runs.process import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        EvaluationCommandLine().run()
