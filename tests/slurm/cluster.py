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
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

START_SECONDS = 100.0
CLIENT_SECONDS = 60.0
CLIENTS = (
    "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sacctmgr",
)  # fmt: skip
SUBNET = "10.213"
PORTS = 200  # of one cluster


@dataclass(frozen=True)
class ClusterSettings:
    """What kind of cluster; times in seconds, memory in MB."""

    num_nodes: int = 4
    cpus: int = 8
    memory_mb: int = 4000
    gpus: int = 4
    network: Literal["loop", "netns"] = "loop"
    accounting: Literal["none", "dbd"] = "none"
    grace_seconds: int = 5  # of a preemption; rounded up to a tick of 30 s
    kill_wait_seconds: int = 5
    max_array_size: int = 1001
    send_user_signal: bool = False  # USR2 at a preemption, instead of TERM
    kill_on_bad_exit: int = 0
    requeue: int = 1  # JobRequeue


class SlurmCluster:
    """
    One cluster.

    Args:
        folder: All its files.
        settings: See there.
    """

    def __init__(self, folder: Path, settings: ClusterSettings) -> None:
        self.folder, self.settings = folder, settings
        self._port, self._held = _free_ports(90 + settings.num_nodes)
        self._subnet = f"{SUBNET}.{self._port // PORTS % 250}"
        self._space = f"ic{os.getpid()}p{self._port}"  # prefix of the network namespaces
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._up()
        except BaseException:
            self.down()
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
        if self._in_netns:
            return f"{self._subnet}.{node or 100}"
        return f"127.0.77.{node}" if node else "127.0.0.1"

    def _nodes(self) -> range:
        return range(1, self.settings.num_nodes + 1)

    # What a test does with it.

    def run(self, *command: str, check: bool = True) -> str:
        """Run a client and return what it printed."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=CLIENT_SECONDS,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """Return what `scontrol show job` says, as written there; {} for a job it has forgotten."""
        words = self.run("scontrol", "-o", "show", "job", job_id, check=False).split()
        facts: dict[str, str] = {}
        for word in words:
            key, _, value = word.partition("=")
            facts.setdefault(key, value)
        return facts

    def kill_slurmd(self, node: int) -> None:
        """Kill a node's daemon; its tasks live on."""
        pid = self._daemons.pop(f"node{node}").pid
        for child in [pid, *_descendants(pid)]:
            if _name_of(child) == "slurmd":
                _kill(child)

    def kill_node(self, node: int) -> None:
        """Take the power from a node: daemon and tasks are gone at once. Needs netns."""
        pid = self._daemons.pop(f"node{node}").pid
        for child in [pid, *_descendants(pid), *self._steps(node)]:
            _kill(child)

    def start_node(self, node: int) -> None:
        """Start a node, for the first time or again."""
        hosts = self.folder / "etc" / "hosts"
        inner = f"mount --bind {hosts} /etc/hosts; exec slurmd -D -N node{node} -f {self.conf}"
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
        _run("ip", "-n", f"{self._space}-{node}", "link", "set", "eth0", "down")

    def heal(self, node: int) -> None:
        """Bring a node's network back."""
        _run("ip", "-n", f"{self._space}-{node}", "link", "set", "eth0", "up")

    # Its life.

    def _up(self) -> None:
        for name in ("etc", "state", "spool", "log", "dev", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._write_clients()
        if self._in_netns:
            self._make_networks()
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
        """Kill all that belongs to it, and forget its networks."""
        for _ in range(3):  # what was started meanwhile
            pids = [pid for p in self._daemons.values() for pid in [p.pid, *_descendants(p.pid)]]
            for pid in {*pids, *self._steps()}:
                _kill(pid)
        for process in self._daemons.values():
            process.wait()
        self._daemons.clear()
        self._held.close()
        if self._in_netns:
            for node in [0, *self._nodes()]:
                subprocess.run(
                    ["ip", "netns", "del", f"{self._space}-{node}"],
                    check=False,
                    capture_output=True,
                )

    def _steps(self, node: int | None = None) -> list[int]:
        """Return the processes of this cluster's job steps, on one node or on all."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                f"SLURM_CONF={self.conf}".encode() not in environment
                or int(entry.name) == os.getpid()
            ):
                continue
            nodes = [word for word in environment if word.startswith(b"SLURMD_NODENAME=")]
            name = _name_of(int(entry.name))
            mine = f"SLURMD_NODENAME=node{node}".encode() in nodes
            if node is None:
                ours = bool(nodes) or name in ("slurmstepd", "srun", "slurmd")
            else:
                ours = mine or (name == "slurmstepd" and _logs_of(entry, node))
            if ours:
                found.append(int(entry.name))
        return found

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

    def _make_networks(self) -> None:
        """Make a bridge in the controller's network, and a cable from it to every node."""
        control = f"{self._space}-0"
        _run("ip", "netns", "add", control)
        _run("ip", "-n", control, "link", "set", "lo", "up")
        _run("ip", "-n", control, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", control, "addr", "add", f"{self._address(0)}/24", "dev", "br0")
        _run("ip", "-n", control, "link", "set", "br0", "up")
        for node in self._nodes():
            space = f"{self._space}-{node}"
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
            _run(
                *("ip", "-n", control, "link", "add", f"h{node}", "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            )
            _run("ip", "-n", control, "link", "set", f"h{node}", "master", "br0", "up")
            _run("ip", "-n", space, "addr", "add", f"{self._address(node)}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")

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
        log = (self.folder / "log" / "install.out").open("wb")
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
        conf.write_text(SLURMDBD.format(c=self, port=self._port + 91, host=socket.gethostname()))
        conf.chmod(0o600)
        self._start(
            "slurmdbd",
            ["slurmdbd", "-D"],
            env={"SLURM_CONF": str(conf), "MYSQL_UNIX_PORT": str(sock)},
        )
        self._wait("slurmdbd", lambda: _answers("127.0.0.1", self._port + 91))

    def _write_configuration(self) -> None:
        settings, etc = self.settings, self.folder / "etc"
        host = "ctl" if self._in_netns else socket.gethostname().split(".")[0]
        lines, hosts = [], ["127.0.0.1 localhost", f"{self._address(0)} {host}"]
        for node in self._nodes():
            name = f"node{node}" if self._in_netns else host
            lines.append(
                f"NodeName=node{node} NodeHostname={name} NodeAddr={self._address(node)} "
                f"Port={self._port + node} CPUs={settings.cpus} RealMemory={settings.memory_mb} "
                f"{f'Gres=gpu:{settings.gpus} ' if settings.gpus else ''}State=UNKNOWN"
            )
            hosts.append(f"{self._address(node)} node{node}")
        (etc / "hosts").write_text("\n".join(hosts) + "\n")
        accounting = "AccountingStorageType=accounting_storage/none"
        if settings.accounting == "dbd":
            accounting = (
                "AccountingStorageType=accounting_storage/slurmdbd\n"
                f"AccountingStorageHost=127.0.0.1\nAccountingStoragePort={self._port + 91}\n"
                "TrackWCKey=yes"
            )
        for gpu in range(settings.gpus):
            (self.folder / "dev" / f"gpu{gpu}").touch()
        files = f"{self.folder}/dev/gpu[0-{settings.gpus - 1}]"
        gres = f"Name=gpu File={files}\n" if settings.gpus else ""
        (etc / "gres.conf").write_text(f"AutoDetect=off\n{gres}")
        (etc / "cgroup.conf").write_text("CgroupAutomount=no\n")
        self.conf.write_text(
            SLURM.format(
                host=host, address=self._address(0), port=self._port + 90, folder=self.folder,
                s=settings, accounting=accounting, nodes="\n".join(lines),
                warn="SlurmctldParameters=preempt_send_user_signal"
                if settings.send_user_signal
                else "",
            )
        )  # fmt: skip


SLURM = """\
ClusterName=lab
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# A requeued job comes back cred_expire + 1 s later; less than 5 is refused, and 120 taken.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue={s.requeue}
KillWait={s.kill_wait_seconds}
KillOnBadExit={s.kill_on_bad_exit}
{warn}
InactiveLimit=0
SlurmctldTimeout=10
SlurmdTimeout=15
MessageTimeout=10
MinJobAge=3600
MaxArraySize={s.max_array_size}
ReturnToService=2
PropagateResourceLimits=NONE
{accounting}
JobCompType=jobcomp/none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={s.grace_seconds} MaxTime=1-00:00:00 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=UNLIMITED State=UP
PartitionName=gpu Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE MaxTime=UNLIMITED State=UP
PartitionName=short Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE MaxTime=30 State=UP
PartitionName=closed Nodes=ALL State=INACTIVE
"""

SLURMDBD = """\
AuthType=auth/none
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={c.folder}/log/slurmdbd.log
PidFile={c.folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
TrackWCKey=yes
"""


def _free_ports(num: int) -> tuple[int, socket.socket]:
    """
    Return the first of so many free ports, and a socket that keeps other clusters off them.

    The last port of each range is nobody's but the cluster's that has it open.
    """
    for first in range(20000, 32000, PORTS):
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", first + PORTS - 1))
            for port in range(first, first + num + 10):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            held.close()
            continue
        return first, held
    raise AssertionError("no range of free ports on this machine")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descendants(pid: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for t in threads for child in (t / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from _descendants(int(child))


def _logs_of(process: Path, node: int) -> bool:
    """Return True if a slurmstepd has the log or the spool of a node open."""
    try:
        opened = [str(link.readlink()) for link in (process / "fd").iterdir()]
    except OSError:
        return False
    return any(f"slurmd.node{node}.log" in name or f"/spool/node{node}/" in name for name in opened)
