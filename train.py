"""Train a mask generator or a classifier: `python train.py [--config FILE]`, `python train.py --help`."""

from dre.cli.training import training_command_line
from dre.runs.process import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        training_command_line().run()
