"""A real Slurm on this machine, started from Debian's packages without systemd: munged, slurmctld, a slurmd for each node."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun", "munged", "runuser")
# Waits are upper bounds, and generous: Slurm's own are for machines that have nothing else to do (2 s for a connection).
CONFIG = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=30
TCPTimeout=30
MessageTimeout=100
BatchStartTimeout=120
SchedulerParameters=sched_interval=2,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why no Slurm can be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    return None


@contextmanager
def slurm(cpus: int = 4, nodes: int = 1) -> Iterator[dict[str, str]]:
    """A running Slurm, its nodes all on this machine; gives the environment in which its commands find it."""
    # Not in pytest's folders: their names are long, and that of a step's socket may have 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    names = [f"node{index}" for index in range(nodes)]
    for name in ("state", "munge", *(f"spool-{name}" for name in names)):
        (folder / name).mkdir(mode=0o755)
    host = socket.gethostname().partition(".")[0]
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={cpus} State=UNKNOWN"
        for name in names
    ]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, port=_free_port(), nodes="\n".join(lines)))
    environment = dict(os.environ) | {"SLURM_CONF": str(config), "PATH": _path()}
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        output = open(folder / f"{Path(words[0]).name}-{len(daemons)}.out", "wb")  # noqa: SIM115
        daemons.append(subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True))

    try:
        _munge(folder / "munge", start)
        start("slurmctld", "-D", "-c")
        for name in names:
            start("slurmd", "-D", "-N", name)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            answer = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            if answer.returncode == 0 and set(answer.stdout.split()) == {"idle"}:
                break
            time.sleep(0.3)
        else:
            raise RuntimeError(f"Slurm did not start: {answer.stdout}{answer.stderr} (logs in {folder})")
        yield environment
    finally:
        _empty(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
    shutil.rmtree(folder)  # where something went wrong, its logs stay


def _empty(environment: dict[str, str]) -> None:
    """Cancel what is left and wait until it is gone: without slurmd nobody would end a job's processes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
        left = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True)
        if left.returncode != 0 or not left.stdout.strip():
            return
        time.sleep(0.5)


def _munge(folder: Path, start: object) -> None:
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    words = ("munged", "--foreground", "--force", f"--socket={folder}/socket", f"--key-file={key}")
    files = (f"--pid-file={folder}/pid", f"--log-file={folder}/log", f"--seed-file={folder}/seed")
    start(*words, *files)  # type: ignore[operator]
    deadline = time.monotonic() + 60
    while not (folder / "socket").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
