"""Free memory, read from files like those of Linux."""

from pathlib import Path

import pytest
import torch

from dre.engine.chunks import free_memory

CPU = torch.device("cpu")
GIB = 1 << 30


def machine(root: Path, available: int, groups: str, files: dict[str, str]) -> Path:
    """Write files as Linux shows them."""
    meminfo = f"MemTotal: 999999999 kB\nMemFree: 17 kB\nMemAvailable: {available // 1024} kB\n"
    for name, content in {"proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_a_control_group_it_is_what_the_kernel_calls_available(tmp_path):
    assert free_memory(CPU, machine(tmp_path, 5 * GIB, "", {})) == 5 * GIB


@pytest.mark.parametrize("here", ["sys/fs/cgroup/job/step", "sys/fs/cgroup/job", "sys/fs/cgroup"])
def test_the_tightest_control_group_on_the_way_up_decides(tmp_path, here):
    files = {f"{place}/memory.max": "max\n" for place in ("sys/fs/cgroup/job/step", "sys/fs/cgroup/job")}
    files |= {f"{here}/memory.max": f"{3 * GIB}\n", f"{here}/memory.current": f"{2 * GIB}\n"}
    files[f"{here}/memory.stat"] = f"anon 7\ninactive_file {GIB // 2}\n"  # cache that the kernel would give up
    root = machine(tmp_path, 5 * GIB, "0::/job/step\n", files)
    assert free_memory(CPU, root) == GIB + GIB // 2


def test_the_first_version_of_control_groups_counts_too(tmp_path):
    files = {
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/box/memory.stat": "cache 1\ntotal_inactive_file 1024\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "4096\n",
    }
    root = machine(tmp_path, 5 * GIB, "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n", files)
    assert free_memory(CPU, root) == GIB + 1024


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path):
    files = {"sys/fs/cgroup/memory.max": "10\n", "sys/fs/cgroup/memory.current": "11\n"}
    assert free_memory(CPU, machine(tmp_path, GIB, "0::/\n", files)) == 0


def test_a_system_that_does_not_say_is_not_guessed(tmp_path):
    assert free_memory(CPU, tmp_path) is None
    assert free_memory(torch.device("meta")) is None


def test_a_gpu_counts_what_its_allocator_holds_and_does_not_use(monkeypatch):
    for name, value in {"mem_get_info": (6 * GIB, 8 * GIB), "memory_reserved": GIB, "memory_allocated": 1000}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda", 0)) == 7 * GIB - 1000


def test_this_machine_has_some():
    free = free_memory(CPU)
    assert free is None or free > 0
