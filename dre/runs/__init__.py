"""Run directories, their records and results, and the processes of a run."""
