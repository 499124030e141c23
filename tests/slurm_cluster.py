"""A SLURM of the tests' own on 127.0.0.1: munged, slurmctld and two nodes' slurmd, in a folder of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=300
KillWait=15
MinJobAge=600
InactiveLimit=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName={other} NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=9
PartitionName=two Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1
"""


def why_not() -> str:
    """Why no SLURM can be started here; "" if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


class Cluster:
    """Started by `start`, ended by `stop`, with every process of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, dict[str, subprocess.Popen[bytes]]()
        ports = [socket.socket() for _ in range(3)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        controller, first, second = (port.getsockname()[1] for port in ports)
        for port in ports:
            port.close()
        # Ranks find each other by the names of their nodes, which must be names of this machine.
        self.nodes = socket.gethostname().split(".")[0], "localhost"
        words = {
            "host": self.nodes[0],
            "other": self.nodes[1],
            "folder": folder,
            "controller": controller,
            "first": first,
            "second": second,
        }
        self.file = folder / "slurm.conf"
        self.file.write_text(CONFIGURATION.format(**words))
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (folder / name).mkdir()
        self.environment = {"SLURM_CONF": str(self.file), "PATH": PATH}

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        files = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        flags = [f"--{name}-file={files[name]}" for name in ("pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}", *flags)
        self._until(files["socket"].exists, "munged")
        self._daemon("slurmctld", "-D")
        self._until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")
        for node in self.nodes:
            self.start_slurmd(node)

    def start_slurmd(self, node: str | None = None) -> None:
        """Of the first node, if none is named."""
        node = node or self.nodes[0]
        self._daemon("slurmd", "-D", "-N", node, key=f"slurmd {node}")
        self._until(lambda: any(state in self._state(node) for state in ("idle", "mix", "alloc")), f"slurmd {node}")

    def kill_slurmd(self) -> None:
        """The first node's."""
        daemon = self.daemons.pop(f"slurmd {self.nodes[0]}")
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        self.run("scancel", "--me")
        end = time.monotonic() + 30
        while self.run("squeue", "--noheader", "--states=running,completing").stdout.strip() and time.monotonic() < end:
            time.sleep(0.2)
        for name in (*(f"slurmd {node}" for node in self.nodes), "slurmctld", "munged"):
            if daemon := self.daemons.pop(name, None):
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def _state(self, node: str) -> str:
        return self.run("sinfo", "--noheader", f"--nodes={node}", "--format=%T").stdout

    def _daemon(self, name: str, *flags: str, key: str | None = None) -> None:
        key = key or name
        with (self.folder / f"{key}.out").open("ab") as log:
            self.daemons[key] = subprocess.Popen(
                [shutil.which(name, path=PATH) or name, *flags],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _until(self, there, name: str) -> None:
        end = time.monotonic() + 60
        while not there():
            if time.monotonic() > end or self.daemons[name].poll() is not None:
                raise RuntimeError(f"{name} does not come up: {(self.folder / f'{name}.out').read_text()[-2000:]}")
            time.sleep(0.1)
