"""Score explainers of one classifier: `python evaluate.py [--config FILE]`, `python evaluate.py --help`."""

from dre.cli import EvaluationCommandLine
from dre.environment import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        EvaluationCommandLine().run()
