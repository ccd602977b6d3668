"""A real Slurm on machines of one host, each of which has eight GPUs that are files and nothing more."""

import os
from pathlib import Path

import pytest
from machines import Command, Machine, Switch, why_not
from waits import wait_until

ROOT_VARIABLE = "ISENTROPE_SLURM"
"""Environment variable with the folder into which Slurm's packages were unpacked, where they are not installed:
Debian's `slurmctld`, `slurmd`, `slurm-client`, `slurm-wlm-basic-plugins` and `libhwloc15`, by `dpkg -x`."""

GPUS = 8

CONFIGURATION = """ClusterName=lab
SlurmctldHost={controller}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/tmp/state
SlurmdSpoolDir=/tmp/spool
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName={nodes} CPUs=2 RealMemory=2000 Gres=gpu:{gpus}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=600
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class Programs:
    """Slurm's programs, installed or unpacked."""

    def __init__(self) -> None:
        """Find them; skip the test where they are not."""
        self.root = Path(os.environ.get(ROOT_VARIABLE, "/"))
        plugins = sorted(self.root.glob("usr/lib/*/slurm*/auth_none.so"))
        if not plugins or not self._daemon("slurmctld").exists():
            pytest.skip(f"Slurm is not here: install slurmctld and slurmd, or set {ROOT_VARIABLE}")
        self.plugins = plugins[0].parent

    def link(self, folder: Path) -> None:
        """Link the daemons by their names, which they look at: Debian has others until the package is set up."""
        for name in ("slurmctld", "slurmd", "slurmstepd"):
            (folder / name).symlink_to(self._daemon(name))

    def _daemon(self, name: str) -> Path:
        installed = self.root / "usr" / "sbin" / name
        return installed if installed.exists() else installed.with_name(f"{name}-wlm")

    @property
    def env(self) -> dict[str, str]:
        """Variables by which commands find programs and libraries."""
        libraries = f"{self.plugins.parent}:{self.plugins}"
        return {} if self.root == Path("/") else {"LD_LIBRARY_PATH": libraries}

    @property
    def path(self) -> str:
        """Folder of the users' programs."""
        return str(self.root / "usr" / "bin")


class SlurmCluster:
    """Machines under one controller, which is on the first of them."""

    def __init__(self, folder: Path, shared: Path, names: tuple[str, ...]) -> None:
        """Start it; skip the test where machines or Slurm are not to be had."""
        if reason := why_not():
            pytest.skip(reason)
        self._programs = Programs()
        self._configuration = shared / "slurm" / "slurm.conf"
        self._configuration.parent.mkdir()
        self._programs.link(self._configuration.parent)
        unpacked = () if self._programs.root == Path("/") else (self._programs.root,)
        self.switch = Switch(folder, shared=[shared, *unpacked])
        try:
            self.machines = [self.switch.add(name) for name in names]
            self._configure(names)
            self.daemons = [self._daemon(self.machines[0], "slurmctld", "-i")]
            for machine in self.machines:
                for number in range(GPUS):
                    os.mknod(machine.folder / "tmp" / f"gpu{number}", 0o20666, os.makedev(1, 3))
                step = str(self._configuration.with_name("slurmstepd"))
                self.daemons.append(self._daemon(machine, "slurmd", "-N", machine.name, "-d", step))
            wait_until(self._is_up, self.output, deadline_s=120.0, poll_s=0.5)
        except BaseException:
            self.switch.close()
            raise

    def ask(
        self, *command: str, folder: Path | None = None, env: dict[str, str] | None = None, programs: Path | None = None
    ) -> str:
        """Return what one of Slurm's programs prints, on the controller's machine; jobs find `programs` first."""
        given = self._environment() | (env or {})
        given["PATH"] = f"{programs}:{given['PATH']}" if programs else given["PATH"]
        done = self.machines[0].run(*command, folder=folder, env=given)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def refused(self, command: str, folder: Path) -> str:
        """Return what one of Slurm's programs says against a command; empty: it takes it."""
        done = self.machines[0].run(*command.split(), folder=folder, env=self._environment())
        return f"{command}: {done.stderr}" if done.returncode else ""

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller says of a job."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def output(self) -> str:
        """Return the last lines of the daemons."""
        return "\n".join(daemon.output[-2000:] for daemon in self.daemons)

    def _configure(self, names: tuple[str, ...]) -> None:
        facts = {"controller": names[0], "plugins": self._programs.plugins, "nodes": ",".join(names), "gpus": GPUS}
        self._configuration.write_text(CONFIGURATION.format(**facts))
        gres = f"NodeName={','.join(names)} Name=gpu Count={GPUS} File=/tmp/gpu[0-{GPUS - 1}]\n"
        self._configuration.with_name("gres.conf").write_text(gres)
        self._configuration.with_name("cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _daemon(self, machine: Machine, name: str, *options: str) -> Command:
        (machine.folder / "tmp" / "state").mkdir(exist_ok=True)
        command = [str(self._configuration.with_name(name)), "-D", "-f", str(self._configuration), *options]
        return machine.start(*command, env=self._environment(), name=name)

    def _environment(self) -> dict[str, str]:
        path = f"{self._programs.path}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return {"SLURM_CONF": str(self._configuration), "PATH": path, **self._programs.env}

    def _is_up(self) -> bool:
        assert all(daemon.poll() is None for daemon in self.daemons), self.output()
        command = ("sinfo", "--noheader", "--Node", "--format=%T")
        return set(self.machines[0].run(*command, env=self._environment()).stdout.split()) == {"idle"}
