"""
A real Slurm of several nodes on this machine, for tests: up in a second, gone without a trace.

    with SlurmCluster(folder, ClusterSettings(num_nodes=4)) as cluster:
        cluster.run("sbatch", "job.sh")
        cluster.kill_slurmd(2)

Configuration, state, ports, logs and host names are its own; nothing on the machine is edited. With
`network="netns"` every node is a network, process and host-name space of its own, so that it can be
cut off or lose its power; otherwise all nodes have loopback addresses. Needs root and Slurm's
daemons (Debian: slurm-client slurmctld slurmd munge slurm-wlm-basic-plugins), and for
`accounting="dbd"` also slurmdbd slurm-wlm-mysql-plugin mariadb-server.

Facts it is built on: GRES wants files, plain ones do; `ip netns exec` remounts /sys and breaks
slurmd, nsenter does not; slurmstepd leaves slurmd's process tree, so it is found by its SLURM_CONF.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.slurm.configuration import ClusterSettings, write_accounting, write_configuration
from tests.slurm.leftovers import cgroups_of, end_processes, remove_spaces, watch
from tests.slurm.network import make_networks
from tests.slurm.processes import (
    PORTS,
    answers,
    descendants,
    free_ports,
    kill,
    name_of,
    number_inside,
    run_command,
    steps_of,
)

START_SECONDS = 100.0
CLIENT_SECONDS = 60.0
CLIENT_TRIES = 5
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sacctmgr")
SUBNET = "10.213"


class SlurmCluster:
    """
    One cluster.

    Args:
        folder: All its files.
        settings: See there.
    """

    def __init__(self, folder: Path, settings: ClusterSettings) -> None:
        self.folder, self.settings = folder, settings
        self._port, self._held = free_ports(90 + settings.num_nodes)
        self._subnet = f"{SUBNET}.{self._port // PORTS % 250}"
        self._space = f"ic{os.getpid()}p{self._port}"  # prefix of the network namespaces
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        nodes = [0, *self._nodes()] if self._in_netns else []
        self._networks = [f"{self._space}-{node}" for node in nodes]

    def __enter__(self) -> Self:
        self._watcher = watch(self.folder, self._networks)
        try:
            self._up()
        except BaseException:
            self._end()  # its logs stay, to be looked at
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.down()

    # Its shape.

    @property
    def _in_netns(self) -> bool:
        return self.settings.network == "netns"

    @property
    def conf(self) -> Path:
        """Path of slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """Environment in which Slurm's clients mean this cluster."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return os.environ | {"SLURM_CONF": str(self.conf), "PATH": path}

    def _address(self, node: int) -> str:
        """Return where a node (1, 2, ...) or the controller (0) is reached."""
        if self.settings.ip == 6:
            return f"fd00:{self._port:x}::{node or 100}"
        if self._in_netns:
            return f"{self._subnet}.{node or 100}"
        return f"127.0.77.{node}" if node else "127.0.0.1"

    def _nodes(self) -> range:
        return range(1, self.settings.num_nodes + 1)

    # What a test does with it.

    def run(self, *command: str, check: bool = True) -> str:
        """Run a client and return what it printed."""
        done = self._ask(*command)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=CLIENT_SECONDS,
            check=False,
        )  # fmt: skip

    def job(self, job_id: str) -> dict[str, str]:
        """Return what `scontrol show job` says, as written there; {} for a job it has forgotten."""
        for _ in range(CLIENT_TRIES):
            done = self._ask("scontrol", "-o", "show", "job", job_id)
            if done.returncode == 0 or "Invalid job id" in done.stderr:
                break  # else the controller is busy, and has not said that it knows no such job
        else:
            raise AssertionError(f"scontrol did not answer for job {job_id}: {done.stderr}")
        words = [word.partition("=") for word in done.stdout.split()]
        return {key: value for key, _, value in reversed(words)}  # the first of a name counts

    def kill_slurmd(self, node: int) -> None:
        """Kill a node's daemon; its tasks live on."""
        daemon = self._daemons.pop(f"node{node}")
        for child in [daemon.pid, *descendants(daemon.pid)]:
            if name_of(child) == "slurmd":
                kill(child)
        daemon.wait(CLIENT_SECONDS)

    def kill_node(self, node: int) -> None:
        """Take the power from a node: daemon and tasks are gone at once. Needs netns."""
        daemon = self._daemons.pop(f"node{node}")
        for child in [daemon.pid, *descendants(daemon.pid), *steps_of(self.conf, node)]:
            kill(child)
        daemon.wait(CLIENT_SECONDS)

    def pid_here(self, node: str, pid: int) -> int:
        """Return the number that a task has here; nodes in spaces of their own count from one."""
        if not self._in_netns:
            return pid
        tasks = steps_of(self.conf, int(node.removeprefix("node")))
        [here] = [task for task in tasks if number_inside(task) == pid]
        return here

    def start_node(self, node: int) -> None:
        """Start a node, for the first time or again."""
        hosts = self.folder / "etc" / "hosts"
        inner = f"mount --bind {hosts} /etc/hosts; exec slurmd -D -N node{node} -f {self.conf}"
        if self.settings.cgroups:  # it calls them by its node alone, and so would another cluster
            binds = [f"mount --bind {own} {own.parent}; " for own in cgroups_of(self.folder)]
            inner = "".join(binds) + inner
        command = ["unshare", "--mount", "bash", "-c", inner]
        if self._in_netns:
            inner = f"mount -t proc proc /proc; hostname node{node}; {inner}"
            command = [
                *("nsenter", f"--net=/run/netns/{self._space}-{node}"),
                *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"),
                *("bash", "-c", inner),
            ]
        self._start(f"node{node}", command)

    def cut(self, node: int) -> None:
        """Cut a node off the network without a word to anybody. Needs netns."""
        run_command("ip", "-n", f"{self._space}-{node}", "link", "set", "eth0", "down")

    def heal(self, node: int) -> None:
        """Bring a node's network back."""
        run_command("ip", "-n", f"{self._space}-{node}", "link", "set", "eth0", "up")

    # Its life.

    def _up(self) -> None:
        for name in ("etc", "state", "spool", "log", "dev", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_configuration(
            self.folder, self.settings, self._port, [self._address(n) for n in (0, *self._nodes())]
        )
        self._write_clients()
        if self.settings.cgroups:
            for own in cgroups_of(self.folder):
                own.mkdir()
        if self._in_netns:
            make_networks(self._space, [self._address(n) for n in (0, *self._nodes())])
        if self.settings.accounting == "dbd":
            self._start_accounting()
        hosts = self.folder / "etc" / "hosts"
        inner = f"mount --bind {hosts} /etc/hosts; exec slurmctld -D -f {self.conf}"
        if self._in_netns:
            inner = f"hostname ctl; {inner}"
        self._start(
            "slurmctld", self._beside_controller("unshare", "--mount", "--uts", "bash", "-c", inner)
        )
        for node in self._nodes():
            self.start_node(node)
        self._wait("idle nodes", lambda: self._num_idle() == self.settings.num_nodes)

    def _num_idle(self) -> int:
        listed = self.run("sinfo", "-h", "-N", "-p", "low", "-t", "idle", "-o", "%N", check=False)
        return len(listed.split())

    def down(self) -> None:
        """Kill all that belongs to it, and forget its networks and files."""
        self._end()
        shutil.rmtree(self.folder)

    def _end(self) -> None:
        end_processes(self.folder)
        for process in self._daemons.values():
            process.wait()
        self._daemons.clear()
        self._held.close()
        remove_spaces(self.folder, self._networks)
        self._watcher.kill()
        self._watcher.wait()

    def _start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self.env | (env or {}), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            dead = [name for name, process in self._daemons.items() if process.poll() is not None]
            assert not dead, f"{dead} ended, see {self.folder / 'log'}"
            assert time.monotonic() < deadline, f"no {what} after {START_SECONDS} s: {self.folder}"
            time.sleep(0.05)

    def _beside_controller(self, *command: str) -> list[str]:
        """Return a command that runs in the controller's network."""
        if self._in_netns:
            return ["nsenter", f"--net=/run/netns/{self._space}-0", *command]
        return list(command)

    def _write_clients(self) -> None:
        """Write wrappers that talk to this cluster; inside a job, from the node they run on."""
        for client in CLIENTS:
            lines = ["#!/bin/sh", f"export SLURM_CONF={self.conf}"]
            real = shutil.which(client, path="/usr/bin:/usr/local/bin")
            if self._in_netns:
                lines.append(f'[ -n "$SLURMD_NODENAME" ] && exec {real} "$@"')
                lines.append(f'exec nsenter --net=/run/netns/{self._space}-0 {real} "$@"')
            else:
                lines.append(f'exec {real} "$@"')
            path = self.folder / "bin" / client
            path.write_text("\n".join(lines) + "\n")
            path.chmod(0o755)

    def _start_accounting(self) -> None:
        """Start MariaDB on a socket of its own, and slurmdbd."""
        data, sock = self.folder / "db", self.folder / "db.sock"
        with (self.folder / "log" / "install.out").open("wb") as log:
            subprocess.run(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                 "--auth-root-authentication-method=socket", "--skip-test-db"],
                check=True, stdout=log, stderr=log,
            )  # fmt: skip
        self._start(
            "mariadbd",
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}",
             f"--pid-file={self.folder / 'db.pid'}", "--skip-networking", "--skip-log-bin",
             "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"],
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", "-uroot", "-S", str(sock), "-e"]
        create = "create database if not exists slurm_acct_db"
        self._wait(
            "database",
            lambda: (
                subprocess.run([*client, create], capture_output=True, check=False).returncode == 0
            ),
        )
        conf = self.folder / "etc" / "slurmdbd.conf"
        write_accounting(self.folder, conf, self._port + 91)
        self._start(
            "slurmdbd",
            ["slurmdbd", "-D"],
            env={"SLURM_CONF": str(conf), "MYSQL_UNIX_PORT": str(sock)},
        )
        self._wait("slurmdbd", lambda: answers("127.0.0.1", self._port + 91))
