"""
Slurm's clients as a play: they print what a test has written down.

    slurm = PlayedSlurm(tmp_path / "bin")
    slurm.config["KillWait"] = "0 sec"
    monkeypatch.setenv("PATH", slurm.path())
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

SCONTROL = """#!/bin/sh
case "$*" in
    "show config") cat {folder}/config ;;
    "-o show partition") cat {folder}/partitions ;;
    "-o show node") cat {folder}/nodes ;;
    *) echo "no such question: $*" >&2; exit 1 ;;
esac
"""
NODE = (
    "NodeName=node{number} CPUEfctv=8 CPUTot=8 AvailableFeatures=(null) Gres={gres} RealMemory=64000 "
    "Partitions={inside} State={state} NodeHostName={host}"
)


class PlayedSlurm:
    """
    A healthy cluster of four nodes with four GPUs each; what a test changes is broken.

    Args:
        folder: For the clients and what they print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config = {
            "SLURM_VERSION": "24.05.1",
            "JobRequeue": "1",
            "KillWait": "30 sec",
            "MaxArraySize": "1001",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SlurmctldParameters": "enable_configless,preempt_send_user_signal",
            "PropagateResourceLimits": "ALL",
            "PropagateResourceLimitsExcept": "(null)",
        }
        self.partition = {
            "PartitionName": "low",
            "Default": "YES",
            "GraceTime": "120",
            "MaxNodes": "UNLIMITED",
            "MaxTime": "1-00:00:00",
            "PreemptMode": "REQUEUE",
            "State": "UP",
        }
        self.gres = "gpu:4"
        self.host = socket.gethostname()
        self.inside, self.state = "low,high", "IDLE"  # of the nodes
        self.file_system = "nfs4"  # of all folders, for nodes that are other machines
        self.sbatch = "echo 'sbatch: Job 7 to start at 2026-11-28T05:52:22 using 1 processors' >&2"
        self.scontrol = SCONTROL.format(folder=folder)

    def path(self) -> str:
        """Write everything down, and return a PATH on which these clients come first."""
        self._folder.mkdir()
        config = "".join(f"{key} = {value}\n" for key, value in self.config.items())
        (self._folder / "config").write_text(f"Configuration data as of now\n{config}")
        words = " ".join(f"{key}={value}" for key, value in self.partition.items())
        other = "PartitionName=high Default=NO PreemptMode=OFF State=UP MaxTime=UNLIMITED"
        (self._folder / "partitions").write_text(f"{words}\n{other}\n")
        facts = {"gres": self.gres, "host": self.host, "inside": self.inside, "state": self.state}
        nodes = [NODE.format(number=number, **facts) for number in range(1, 5)]
        (self._folder / "nodes").write_text("\n".join(nodes) + "\n")
        for name, script in (
            ("scontrol", self.scontrol),
            ("sbatch", f"#!/bin/sh\n{self.sbatch}\n"),
        ):
            client = self._folder / name
            client.write_text(script)
            client.chmod(0o755)
        return f"{self._folder}:{os.environ['PATH']}"
