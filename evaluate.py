"""Score explainers of one classifier: `python evaluate.py [--config FILE]`, `python evaluate.py --help`."""

from dre.environment import one_line_errors
from dre.evaluation_cli import EvaluationCommandLine

if __name__ == "__main__":
    with one_line_errors():
        EvaluationCommandLine().run()
