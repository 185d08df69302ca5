"""The SLURM script with a stand-in for `srun`; no SLURM was there to try it on."""

import os
import subprocess
import sys

import pytest
import yaml

from dre.cli.training import TrainingCommandLine
from tests.command_line import QUIET, REPOSITORY, tiny_run_file, workplace
from tests.data.trees import packed

SCRIPT = REPOSITORY / "configs" / "slurm" / "train.sbatch"
SRUN = """#!/usr/bin/env bash
# starts two tasks on this machine as srun would
echo "$1" > srun.txt
[[ $1 == --* ]] && shift
export SLURM_NTASKS=2 SLURM_STEP_ID=0
pids=()
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 "$@" > "task$rank.txt" 2>&1 &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "dre",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NODELIST": "localhost",
}


def submit(place, *words, **variables):
    binaries = place / "bin"
    binaries.mkdir(exist_ok=True)
    (binaries / "srun").write_text(SRUN)
    (binaries / "python").write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    for name in ("srun", "python"):
        (binaries / name).chmod(0o755)
    (place / "train.py").write_text((REPOSITORY / "train.py").read_text())
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **JOB, "PATH": path, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env=environment, cwd=place, capture_output=True, text=True, timeout=400
    )


def test_the_script_is_a_script_that_requeues_and_ends_all_tasks_with_one():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    lines = SCRIPT.read_text().splitlines()
    assert "#SBATCH --requeue" in lines
    assert any(line.startswith("srun --kill-on-bad-exit=1 ") for line in lines)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_requeued_job_of_two_tasks_goes_on(tmp_path, monkeypatch):
    place = workplace(tmp_path)
    path = tiny_run_file(place / "tiny.yaml", packed(place / "photographs", train=8, val=4))
    content = yaml.safe_load(path.read_text())
    del content["score"]
    content["trainer"] |= {"max_epochs": 1, "callbacks": [{"class_path": "callbacks.RunCheckpoints"}]}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("SLURM_JOB_ID", JOB["SLURM_JOB_ID"])
    TrainingCommandLine(["--config", str(path), *QUIET]).run()  # what the job had done before it was requeued
    done = submit(place, "--config", str(path), "--trainer.max_epochs", "2", SLURM_RESTART_COUNT="1")
    said = "".join(file.read_text() for file in sorted(place.glob("task*.txt")))
    assert done.returncode == 0, done.stderr + said[-3000:]
    assert (place / "srun.txt").read_text().strip() == "--kill-on-bad-exit=1"
    assert (place / "runs" / "tiny" / "002" / "checkpoints" / "last.ckpt").is_file()
    assert "going on from runs/tiny/001/checkpoints/last.ckpt" in said
