"""Lost processes: the job ends in bounded time, and a run of any number of ranks continues from what it wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch.distributed import DistNetworkError, DistStoreError

from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.training import TrainingCommandLine
from dre.runs.directory import newest_checkpoint, write_record
from dre.runs.launch import follow_torchrun, is_first_to_say, is_restarted, job_name
from dre.runs.process import one_line_errors
from tests.command_line import REPOSITORY, tiny_run_file, workplace
from tests.data.trees import packed
from tests.ranks import free_port, start_processes, start_script
from tests.training import torchrun

TRAIN, EVALUATE = REPOSITORY / "train.py", REPOSITORY / "evaluate.py"
NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
STEPS = 2
"""Of an epoch: twelve photographs, six a step."""


@pytest.fixture
def place(tmp_path):
    return workplace(tmp_path)


def run_file(place: Path, *callbacks: dict, **trainer) -> Path:
    path = tiny_run_file(place / "tiny.yaml", packed(place / "photographs", train=12, val=4))
    content = yaml.safe_load(path.read_text())
    del content["score"], content["data"]["init_args"]["limit"]
    content["data"]["init_args"]["batch_size"] = 6
    content["trainer"] |= {"max_epochs": 4, "callbacks": [{"class_path": "callbacks.RunCheckpoints"}, *callbacks]}
    content["trainer"] |= trainer
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def mortal(rank: int, step: int) -> dict:
    return {"class_path": "tests.modules.mortal.Mortal", "init_args": {"rank": rank, "step": step}}


def reached(place: Path, run: str) -> tuple[int, int]:
    """Give epochs and steps that a run's last checkpoint counts."""
    content = torch.load(place / "runs" / "tiny" / run / "checkpoints" / "last.ckpt", weights_only=True)
    loop = content["loops"]["fit_loop"]["epoch_progress"]["current"]
    return loop["completed"], content["global_step"]


def parent(place: Path, run: str) -> str | None:
    return json.loads((place / "runs" / "tiny" / run / "run.json").read_text())["parent"]


@pytest.mark.ddp
@pytest.mark.slow
def test_torchrun_starts_a_job_again_that_lost_a_rank_and_it_goes_on_by_itself(place):
    path = run_file(place, mortal(rank=1, step=2 * STEPS + 1))
    words = [str(TRAIN), "--config", str(path)]
    done = torchrun(words, 2, "--standalone", "--max-restarts=1", place=place, **NEW_STORE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(folder.name for folder in (place / "runs" / "tiny").iterdir()) == ["001", "002"]
    assert reached(place, "001")[1] == 2 * STEPS  # two epochs were whole
    assert parent(place, "002") == "runs/tiny/001/checkpoints/last.ckpt"
    assert reached(place, "002")[1] == 4 * STEPS


@pytest.mark.ddp
@pytest.mark.slow
def test_a_job_that_lost_a_rank_is_gone_on_with_by_fewer_and_by_more(place):
    path = run_file(place, mortal(rank=2, step=STEPS + 1))
    began = time.monotonic()
    done = torchrun([str(TRAIN), "--config", str(path)], 3, "--standalone", place=place)
    assert done.returncode != 0
    assert time.monotonic() - began < 120  # of which the start of three processes is the most
    checkpoints = place / "runs" / "tiny" / "001" / "checkpoints"
    assert "last.ckpt" in {file.name for file in checkpoints.iterdir()}
    assert reached(place, "001")[1] == STEPS
    for ranks, run, epochs in ((2, "002", 3), (3, "003", 4)):
        words = [str(TRAIN), "--config", str(path), "--ckpt_path", "last", "--trainer.max_epochs", str(epochs)]
        done = torchrun(words, ranks, "--standalone", place=place)
        assert done.returncode == 0, done.stderr[-3000:]
        assert reached(place, run)[1] == epochs * STEPS
        assert parent(place, run).startswith(f"runs/tiny/{int(run) - 1:03d}/")


def told(step: int, rank: int = 0, number: int = signal.SIGTERM) -> dict:
    return {"class_path": "tests.modules.mortal.Told", "init_args": {"step": step, "rank": rank, "number": int(number)}}


def status_of(call: Callable[[], object]) -> object:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        call()
    return stop.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_told_to_stop_says_so_with_its_exit_status(place, monkeypatch, number, code):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    run = TrainingCommandLine(["--config", str(run_file(place, told(step=STEPS + 1, number=number)))])
    assert status_of(run.run) == code
    assert reached(place, "001")[1] == STEPS + 2  # the batch was done
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_ctrl_c_outside_of_the_loops_exits_with_130():
    def interrupted() -> None:
        raise KeyboardInterrupt

    def as_lightning_does() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert [status_of(call) for call in (interrupted, as_lightning_does, lambda: sys.exit(1))] == [130, 130, 1]


def evaluation_file(place: Path, *callbacks: dict, **trainer) -> Path:
    """Write a run file that scores two quick explainers on four batches of one photograph."""
    content = yaml.safe_load(run_file(place).read_text())
    for key in ("widths", "embedding_epochs"):
        del content["model"][key]
    del content["trainer"]["max_epochs"]
    content["model"]["explainers"] = {"gradient": "dre.explainers.VanillaGradient", "random": "dre.explainers.Random"}
    content["data"]["init_args"] |= {"eval_batch_size": 1}
    resume = {"class_path": "callbacks.EvaluationResume", "init_args": {"rest": 1e6}}
    metrics = {"class_path": "callbacks.ExplanationMetrics", "init_args": {"show": False}}
    content["trainer"]["callbacks"] = [metrics, *callbacks, resume]
    content["trainer"] |= trainer
    path = place / "evaluation.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_an_evaluation_that_is_told_to_stop_keeps_its_progress_and_names_the_command(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    path = evaluation_file(place, told(step=1))
    run = EvaluationCommandLine(["--config", str(path)])
    with caplog.at_level("INFO"):
        assert status_of(run.run) == 143
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0  # what is left to write may take its time
    assert "go on with: python evaluate.py --resume results/tiny/001" in caplog.text
    (file,) = (run.run_directory / "progress").glob("*.pt")
    assert len(torch.load(file, weights_only=True)["keys"]) == 2  # though the next writing was far away
    resumed = EvaluationCommandLine(["--resume", str(run.run_directory)])
    monkeypatch.setattr("tests.modules.mortal.Told._send", lambda *_: None)
    resumed.run()
    whole = EvaluationCommandLine(["--config", str(path)])
    whole.run()
    frames = [pd.read_parquet(one.run_directory / "scores.parquet") for one in (resumed, whole)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_a_long_batch_of_an_evaluation_is_left_and_what_was_written_before_stays(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    monkeypatch.setattr("dre.runs.launch.STOP_SECONDS", 0.2)

    def slow(self, images, targets):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)

    path = evaluation_file(place, told(step=0))
    run = EvaluationCommandLine(["--config", str(path)])
    monkeypatch.setattr("dre.explainers.VanillaGradient.explain", slow)
    began = time.monotonic()
    assert status_of(run.run) == 143
    assert time.monotonic() - began < 30
    assert not list(run.run_directory.glob("progress/*"))


@pytest.mark.ddp
def test_ranks_of_a_training_agree_and_the_checkpoint_is_whole_when_a_launcher_kills_at_the_first_bad_exit(
    place, monkeypatch
):
    monkeypatch.chdir(place)
    ended = start_script(TRAIN, ["--config", str(run_file(place, told(step=STEPS + 1, rank=1)))], 2, patience=0)
    assert 143 in [rank.code for rank in ended], ended
    assert {rank.code for rank in ended} <= {143, -signal.SIGKILL}, ended
    assert reached(place, "001")[1] == STEPS + 2
    assert not list((place / "runs" / "tiny" / "001" / "checkpoints").glob("*.part"))
    assert "interrupted at step 4; go on with" in ended[0].said


@pytest.mark.ddp
def test_ranks_of_an_evaluation_stop_together_and_keep_what_each_has_done(place, monkeypatch):
    monkeypatch.chdir(place)
    path = evaluation_file(place, told(step=0, rank=1))
    ended = start_script(EVALUATE, ["--config", str(path)], 2, patience=0)
    assert 143 in [rank.code for rank in ended], ended
    assert {rank.code for rank in ended} <= {143, -signal.SIGKILL}, ended
    assert "python evaluate.py --resume results/tiny/001" in "".join(rank.said for rank in ended)
    files = list((place / "results" / "tiny" / "001" / "progress").glob("*.pt"))
    assert 2 <= sum(len(torch.load(file, weights_only=True)["keys"]) for file in files) <= 4


@pytest.mark.ddp
@pytest.mark.slow
def test_torchrun_does_not_start_a_job_again_that_was_told_to_stop(place):
    waiting = {"step": STEPS + 1, "reached": str(place / "reached"), "go_on": str(place / "go_on")}
    path = run_file(place, {"class_path": "tests.modules.mortal.Waiting", "init_args": waiting})
    words = ["--nproc_per_node=2", "--standalone", "--max-restarts=3", str(TRAIN), "--config", str(path)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **NEW_STORE}
    job = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *words], env=variables, cwd=place)
    try:
        files = [place / f"reached.{rank}" for rank in (0, 1)]
        assert wait_until(lambda: all(file.exists() for file in files), 240)
        job.terminate()
        time.sleep(1.0)
        (place / "go_on").touch()
        assert job.wait(60) != 0
    finally:
        job.kill()
    assert [folder.name for folder in (place / "runs" / "tiny").iterdir()] == ["001"]
    assert reached(place, "001")[1] == STEPS + 2


@pytest.fixture
def two_hosts():
    """Make two network namespaces joined by a cable; give the interface of each, and cut nothing yet."""
    names = [f"dre{os.getpid()}{end}" for end in "ab"]
    try:
        commands = [f"link add {names[0]} type veth peer name {names[1]}"]
        for number, name in enumerate(names, 1):
            commands += [f"netns add {name}", f"link set {name} netns {name}", f"-n {name} link set lo up"]
            commands += [f"-n {name} addr add 10.77.13.{number}/24 dev {name}", f"-n {name} link set {name} up"]
        try:
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("network namespaces cannot be created here")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start_host(name: str, number: int, path: Path, place: Path) -> subprocess.Popen:
    options = ["--nproc_per_node=1", "--nnodes=2", "--rdzv_backend=c10d", "--rdzv_endpoint=10.77.13.1:29519"]
    options += [f"--local_addr=10.77.13.{number}", f"--rdzv_conf=read_timeout=10,is_host={int(number == 1)}"]
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *options, "--rdzv_id=hosts"]
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": name}
    return subprocess.Popen(
        [*command, str(TRAIN), "--config", str(path), "--peer_timeout", "10"],
        env={**os.environ, **variables},
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def is_running(process: int) -> bool:
    """Say whether a process is there and not only waits for its parent to take note of its end."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait for something; say whether it came in time."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.2)
    return holds()


@pytest.mark.ddp
@pytest.mark.slow
def test_training_ends_on_both_hosts_when_one_is_cut_off(place, two_hosts):
    waiting = {"step": STEPS + 1, "reached": str(place / "reached"), "go_on": str(place / "go_on")}
    path = run_file(place, {"class_path": "tests.modules.mortal.Waiting", "init_args": waiting})
    agents = [start_host(name, number, path, place) for number, name in enumerate(two_hosts, 1)]
    try:
        files = [place / f"reached.{rank}" for rank in (0, 1)]
        assert wait_until(lambda: all(file.exists() and file.read_text() for file in files), 240)
        workers = [int(file.read_text()) for file in files]
        subprocess.run(["ip", "-n", two_hosts[1], "link", "set", two_hosts[1], "down"], check=True)
        (place / "go_on").touch()
        # two collectives of ten seconds, and what torchrun gives a process to end
        assert wait_until(lambda: not any(map(is_running, workers)), 90)
        assert reached(place, "001")[1] == STEPS
    finally:
        for agent in agents:  # torchrun's own patience with its store is minutes
            agent.kill()
            agent.wait()


def test_a_job_is_known_by_its_launcher(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (job_name(), is_restarted()) == (None, False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert (job_name(), is_restarted()) == ("slurm 12", False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert is_restarted()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "birds")
    assert job_name() == "torchrun birds"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert job_name().startswith("torchrun on ")


def test_a_restart_does_not_go_on_from_another_job(tmp_path):
    for run, job in (("001", "torchrun a"), ("002", "torchrun b")):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        write_record(tmp_path / run, {"model": {}}, None, job=job)
        (tmp_path / run / "checkpoints" / "last.ckpt").touch()
    assert newest_checkpoint(tmp_path, {"model": {}}, "torchrun a").parts[-3] == "001"
    assert newest_checkpoint(tmp_path, {"model": {}}, "torchrun b").parts[-3] == "002"
    with pytest.raises(FileNotFoundError):
        newest_checkpoint(tmp_path, {"model": {}}, "torchrun c")


def test_the_patience_of_processes_is_a_setting(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    words = ["--config", str(run_file(place)), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run = TrainingCommandLine([*words, "--peer_timeout", "7"])
    assert run.trainer.strategy._timeout == timedelta(seconds=7)
    with pytest.raises(ValueError, match=r"--peer_timeout must be above 0 seconds, got 0\.0"):
        TrainingCommandLine([*words, "--peer_timeout", "0"])


def test_torchrun_says_how_many_processes_there_are(place, monkeypatch):
    told = {"RUN_ID": "a", "MAX_RESTARTS": "1", "USE_AGENT_STORE": "True"}
    for name, value in {f"TORCHELASTIC_{name}": value for name, value in told.items()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    trainer = Namespace(devices=1, num_nodes=1, strategy="auto")
    with pytest.warns(UserWarning, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        follow_torchrun(trainer)
    assert trainer == Namespace(devices=2, num_nodes=3, strategy="ddp")


@pytest.mark.parametrize(
    ("message", "is_lost"), [("[x/gloo/transport/tcp/pair.cc:561] closed\nmore", True), ("shapes differ", False)]
)
def test_a_lost_peer_is_told_in_a_line(message, is_lost):
    with pytest.raises(SystemExit if is_lost else RuntimeError) as stop, one_line_errors():
        raise RuntimeError(message)
    assert not is_lost or ("--ckpt_path last" in stop.value.code and "\n" not in stop.value.code)


def end_with(error: BaseException) -> str | int:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    return stop.value.code


@pytest.fixture
def several(monkeypatch, tmp_path):
    """Pretend to be one of two processes that torchrun started."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "birds", "TORCHELASTIC_RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [
        DistStoreError("Timed out after 9 seconds waiting for clients. 1/2 clients joined."),
        DistNetworkError("The client socket has timed out after 8000ms\nframe #0"),
    ],
)
def test_a_peer_that_never_joins_is_told_in_a_line(error):
    said = end_with(error)
    assert "another process of this job is gone or out of reach" in said
    assert "\n" not in said


def test_several_processes_that_fail_for_one_reason_say_it_once(several):
    assert "too few images" in end_with(ValueError("too few images"))
    assert end_with(ValueError("too few images")) == 1
    assert "another reason" in end_with(ValueError("another reason"))  # the one that knows says it


def test_a_process_that_ended_for_a_known_reason_is_not_said_to_be_gone(several):
    assert "no split" in end_with(ValueError("no split"))
    assert end_with(RuntimeError("[x/gloo/transport/tcp/pair.cc:561] closed")) == 1


def test_a_reason_is_said_again_by_the_next_attempt_and_after_a_minute(several, monkeypatch):
    assert is_first_to_say("a")
    assert not is_first_to_say("a")
    (file,) = several.glob("dre-ended-*")
    os.utime(file, (time.time() - 100,) * 2)
    assert is_first_to_say("a")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_first_to_say("a")


def test_a_process_alone_leaves_no_file_and_says_everything(several, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert is_first_to_say("a")
    assert is_first_to_say("a")
    assert not list(several.iterdir())


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("options", "message"),
    [(("--data.val_split", "nowhere"), "has no split 'nowhere'"), (("--data.limit", "1"), "cannot feed 2 ranks")],
)
def test_two_ranks_that_refuse_a_run_say_one_line(place, monkeypatch, options, message):
    monkeypatch.chdir(place)
    ended = start_script(TRAIN, ["--config", str(run_file(place)), *options], 2)
    assert [rank.code for rank in ended] == [1, 1]
    said = "".join(rank.said for rank in ended)
    assert said.count(message) == 1
    assert said.count("error: ") == 1


@pytest.mark.ddp
def test_a_rank_whose_peer_never_joins_says_one_line(place, monkeypatch):
    monkeypatch.chdir(place)
    words = ["--config", str(run_file(place)), "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]
    alone = [  # the first rank of one job and the second of another
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "NODE_RANK": str(rank),
        }
        for rank in (0, 1)
    ]
    for code, said in start_processes(TRAIN, [*words, "--peer_timeout", "5"], alone):
        assert code == 1
        assert said.count("error: another process of this job is gone or out of reach") == 1
        assert "Traceback" not in said
        assert "frame #" not in said
