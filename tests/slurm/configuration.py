"""What kind of cluster a test boots, as Slurm's own configuration files."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ClusterSettings:
    """What kind of cluster; times in seconds, memory in MB."""

    num_nodes: int = 4
    cpus: int = 8
    memory_mb: int = 4000
    gpus: int = 4
    network: Literal["loop", "netns"] = "loop"
    ip: Literal[4, 6] = 4  # which Internet protocol there is; 6 needs netns
    accounting: Literal["none", "dbd"] = "none"
    grace_seconds: int = 5  # of a preemption; rounded up to a tick of 30 s
    kill_wait_seconds: int = 5
    max_array_size: int = 1001
    send_user_signal: bool = False  # USR2 at a preemption, instead of TERM
    kill_on_bad_exit: int = 0
    requeue: int = 1  # JobRequeue
    cgroups: bool = False  # jobs are held to their memory; needs cgroup v1; tried on 22.05
    submit_plugin: str = ""  # text of a job_submit.lua


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
ProctrackType=proctrack/{tracking}
TaskPlugin=task/{confinement}
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
{more}
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
CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""
SLURMDBD = """\
AuthType=auth/none
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
TrackWCKey=yes
"""


def write_configuration(
    folder: Path, settings: ClusterSettings, port: int, addresses: Sequence[str]
) -> None:
    """
    Write slurm.conf and what goes with it.

    Args:
        folder: Of the cluster.
        settings: What kind it is.
        port: First of its ports: node n has port + n, the controller port + 90, accounting port + 91.
        addresses: Of the controller, then of each node.
    """
    etc, in_netns = folder / "etc", settings.network == "netns"
    host = "ctl" if in_netns else socket.gethostname().split(".")[0]
    lines, hosts = [], ["127.0.0.1 localhost", f"{addresses[0]} {host}"]
    for node, address in enumerate(addresses[1:], start=1):
        name = f"node{node}" if in_netns else host
        lines.append(
            f"NodeName=node{node} NodeHostname={name} NodeAddr={address} "
            f"Port={port + node} CPUs={settings.cpus} RealMemory={settings.memory_mb} "
            f"{f'Gres=gpu:{settings.gpus} ' if settings.gpus else ''}State=UNKNOWN"
        )
        hosts.append(f"{address} node{node}")
    (etc / "hosts").write_text("\n".join(hosts) + "\n")
    accounting = "AccountingStorageType=accounting_storage/none"
    if settings.accounting == "dbd":
        accounting = (
            "AccountingStorageType=accounting_storage/slurmdbd\n"
            f"AccountingStorageHost=127.0.0.1\nAccountingStoragePort={port + 91}\n"
            "TrackWCKey=yes"
        )
    for gpu in range(settings.gpus):
        (folder / "dev" / f"gpu{gpu}").touch()
    files = f"{folder}/dev/gpu[0-{settings.gpus - 1}]"
    gres = f"Name=gpu File={files}\n" if settings.gpus else ""
    (etc / "gres.conf").write_text(f"AutoDetect=off\n{gres}")
    (etc / "cgroup.conf").write_text(_cgroup_settings(settings))
    for node in range(1, settings.num_nodes + 1):
        (folder / "spool" / f"node{node}").mkdir()  # newer ones do not make it themselves
    (etc / "job_submit.lua").write_text(settings.submit_plugin)
    (etc / "slurm.conf").write_text(
        SLURM.format(
            host=host, address=addresses[0], port=port + 90, folder=folder, s=settings,
            accounting=accounting, nodes="\n".join(lines), more="\n".join(_more_settings(settings)),
            tracking="cgroup" if settings.cgroups else "linuxproc",
            confinement="cgroup" if settings.cgroups else "none",
        )
    )  # fmt: skip


def _more_settings(settings: ClusterSettings) -> list[str]:
    """Return lines that only some clusters have."""
    lines = {
        "SlurmctldParameters=preempt_send_user_signal": settings.send_user_signal,
        "CommunicationParameters=EnableIPv6,DisableIPv4": settings.ip == 6,
        "JobSubmitPlugins=lua": settings.submit_plugin,
    }
    return [line for line, is_wanted in lines.items() if is_wanted]


def slurm_version() -> tuple[int, int]:
    """Return the version of the Slurm that is here, as in (22, 5)."""
    said = subprocess.check_output(["slurmd", "-V"], text=True)  # slurm-wlm 22.05.8
    major, minor, *_ = said.split()[-1].split(".")
    return int(major), int(minor)


def has_cgroups() -> bool:
    """Return True where a cluster can have them; newer Slurms are not tried yet."""
    return Path("/sys/fs/cgroup/memory/tasks").exists() and slurm_version() < (24, 11)


def _cgroup_settings(settings: ClusterSettings) -> str:
    """Return a cgroup.conf; newer Slurms look for a file system of them unless it says that none are."""
    if settings.cgroups:
        return CGROUPS
    return "CgroupPlugin=disabled\n" if slurm_version() >= (23, 11) else "CgroupAutomount=no\n"


def write_accounting(folder: Path, conf: Path, port: int) -> None:
    """Write slurmdbd.conf, which Slurm wants to be its owner's alone."""
    conf.write_text(SLURMDBD.format(folder=folder, port=port, host=socket.gethostname()))
    conf.chmod(0o600)
