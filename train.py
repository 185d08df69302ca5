"""Train a mask generator and score it: `python train.py [--config FILE]`, `python train.py --help`."""

from dre.cli import TrainingCommandLine
from dre.environment import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        TrainingCommandLine().run()
