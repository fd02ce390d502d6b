"""Threads of a command: hardly any spinning, no more of them than a CPU quota allows, and a user's own settings win."""

import os
import subprocess
import sys

import pytest

from freqrob.runtime.threads import WAIT_SETTINGS, cpu_quota, set_defaults

V2, V1 = "0::/jobs/one\n", "5:memory:/other\n3:cpu,cpuacct:/jobs/one\n0::/\n"


def machine(root, cgroups, files):
    """A root folder with the kernel's files about cgroups."""
    for name, text in {"proc/self/cgroup": cgroups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "cgroups, files, expected",
    [
        (V2, {"sys/fs/cgroup/jobs/one/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n"}, None),
        (V2, {"sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n", "sys/fs/cgroup/jobs/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4.0),  # a container with a namespace of its own
        (V2, {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4.0),  # one without: the path is the host's
        (V1, {"sys/fs/cgroup/cpu/jobs/one/cpu.cfs_quota_us": "300000\n",
              "sys/fs/cgroup/cpu/jobs/one/cpu.cfs_period_us": "100000\n"}, 3.0),
        (V1, {"sys/fs/cgroup/cpu/jobs/one/cpu.cfs_quota_us": "-1\n",
              "sys/fs/cgroup/cpu/jobs/one/cpu.cfs_period_us": "100000\n"}, None),
        (V2, {"sys/fs/cgroup/jobs/one/cpu.max": "nonsense"}, None),
        (V2, {}, None),
    ],
)  # fmt: skip
def test_quota_is_the_least_of_a_cgroup_and_those_above_it(tmp_path, cgroups, files, expected):
    assert cpu_quota(machine(tmp_path, cgroups, files)) == expected


def test_quota_is_none_where_the_system_has_no_cgroups(tmp_path):
    assert cpu_quota(tmp_path) is None


def test_defaults_spin_briefly_and_leave_the_number_of_threads_without_a_quota(monkeypatch):
    monkeypatch.setattr("freqrob.runtime.threads.cpu_quota", lambda: None)
    environment = {}
    set_defaults(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}


@pytest.mark.parametrize("quota, cpus, threads", [(0.5, 8, "1"), (1.5, 8, "2"), (16.0, 8, "8")])
def test_a_quota_limits_the_threads(monkeypatch, quota, cpus, threads):
    monkeypatch.setattr("freqrob.runtime.threads.cpu_quota", lambda: quota)
    monkeypatch.setattr("freqrob.runtime.threads.usable_cpus", lambda: cpus)
    environment = {}
    set_defaults(environment)
    assert environment["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_settings_of_the_user_win(monkeypatch, name):
    monkeypatch.setattr("freqrob.runtime.threads.cpu_quota", lambda: 1.0)
    environment = {name: "ACTIVE", "OMP_NUM_THREADS": "7"}
    set_defaults(environment)
    assert environment == {name: "ACTIVE", "OMP_NUM_THREADS": "7"}


def test_command_line_sets_them_before_torch_reads_them():
    program = (
        "import os, sys; import freqrob.cli as cli; "
        "cli.app = lambda: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules); cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1000", "False"]
