"""Who starts a training run's processes, and whether they are as many as its settings ask for."""

from __future__ import annotations

import logging
import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from egogen.errors import UserError
from egogen.shards import launched, variable

log = logging.getLogger(__name__)
INTERACTIVE = ("bash", "interactive")  # names of jobs in whose shell a person types


class Tasks(SLURMEnvironment):
    """The tasks of a step of srun, which may be fewer than its job's; `choose_environment` checks them."""

    def world_size(self) -> int:
        """Tasks of the step."""
        return launched()[1].world_size

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: Lightning would compare what the job was given."""


def is_first() -> bool:
    """Whether this is the first of a run's processes, whoever starts them."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return not any(variable(name) for name in ranks)


def is_requeued() -> bool:
    """Whether Slurm has started this job before."""
    return bool(variable("SLURM_RESTART_COUNT"))


def choose_environment(per_node: int, nodes: int) -> ClusterEnvironment:
    """What tells Lightning its processes: those of a launcher if it has started all, else its own.

    Args:
        per_node: processes on each machine.
        nodes: machines.

    Raises:
        UserError: a launcher has started another number; names both.
    """
    wanted = per_node * nodes
    if variable("LOCAL_RANK") is not None and variable("RANK") is None:  # of Lightning's own processes
        found = variable("WORLD_SIZE")
        require("WORLD_SIZE", wanted if found is None else found, per_node, nodes)
        return LightningEnvironment()
    launcher, me = launched()
    if launcher == "torchrun":
        require(launcher, me.world_size, per_node, nodes)
        here = variable("LOCAL_WORLD_SIZE")
        require(f"{launcher} on this machine", per_node if here is None else here, per_node, 1)
        elastic = TorchElasticEnvironment.detect()
        return TorchElasticEnvironment() if elastic else by_hand(me.rank, me.local_rank, per_node)
    if launcher in ("mpirun", "mpiexec"):
        raise UserError(
            f"{launcher} has started {me.world_size} processes, of which training knows nothing; start them "
            "by srun or torchrun"
        )
    tasks = me.world_size if launcher else asked_of_slurm()
    if tasks > 1:
        require("Slurm", tasks, per_node, nodes)
    if launcher:
        machines = variable("SLURM_STEP_NUM_NODES") or nodes
        if machines != nodes or me.local_rank >= per_node:
            raise UserError(
                f"srun has started the {tasks} tasks on {machines} machines, but the settings ask for "
                f"{per_node} on each of {nodes} (trainer.nodes); use --nodes={nodes} "
                f"--ntasks-per-node={per_node}"
            )
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(per_node))  # Lightning refuses tasks without it
        return Tasks(auto_requeue=False)  # our own handlers save
    if variable("SLURM_PROCID"):
        raise UserError(
            f"SLURM_PROCID={os.environ['SLURM_PROCID']}, but no step of srun's; start the command by srun"
        )
    if nodes > 1 and not {"NODE_RANK", "MASTER_ADDR"} <= set(os.environ):
        raise UserError(
            f"trainer.nodes={nodes}: nobody has started the processes of the other machines; start the "
            f"command by srun --ntasks-per-node={per_node}, or by torchrun --nnodes={nodes}"
        )
    if wanted > 1 and "SLURM_JOB_ID" in os.environ:
        log.info("Slurm has started one process; it starts the other %d of this machine itself", per_node - 1)
    return LightningEnvironment()


def asked_of_slurm() -> int:
    """Tasks that a batch script outside of srun was given; 1 where a person types."""
    typed = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE or "SLURM_PTY_PORT" in os.environ
    return 1 if typed else variable("SLURM_NTASKS") or 1


def by_hand(rank: int, local_rank: int, per_node: int) -> ClusterEnvironment:
    """For processes that were given torchrun's variables without torchrun.

    Raises:
        UserError: Lightning would give this process another rank.
    """
    node = variable("NODE_RANK") or variable("GROUP_RANK") or 0
    if "LOCAL_RANK" not in os.environ or rank != node * per_node + local_rank:
        raise UserError(
            f"RANK={rank} in the environment does not follow from NODE_RANK, LOCAL_RANK and {per_node} "
            "processes a machine; start by torchrun, or set all three"
        )
    return LightningEnvironment()


def require(who: str, found: int, per_node: int, nodes: int) -> None:
    """Raises a `UserError` if a launcher has started another number of processes than the settings want."""
    if found != per_node * nodes:
        machines = f" on each of {nodes} machines (trainer.nodes)" if nodes > 1 else ""
        raise UserError(
            f"{who}: {found} processes, but the settings ask for {per_node}{machines} (--gpus, or "
            "trainer.processes on the CPU); ask both for one number, or Slurm for one task on one machine"
        )
