"""Flower's simulation on Ray, one actor a core; its strategy waits before each round until that is asked for."""

import os
import sys
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from flower_client import client_app
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from job import asked, read_job, said

FOLDER, WORKERS = sys.argv[1], int(sys.argv[2])
server_app = ServerApp()


class Steps(FedAvg):
    """FedAvg with the job's draw of clients, a round at a time."""

    def configure_train(self, server_round, arrays, config, grid):
        """Wait until the round is asked for, and say which client each node is in it."""
        if not asked(arrays.to_numpy_ndarrays):
            os._exit(0)
        cohort, nodes = job.cohorts[server_round - 1], sorted(grid.get_node_ids())
        for client in cohort:
            own = ConfigRecord({"folder": FOLDER, "client": client})
            content = RecordDict({"arrays": arrays, "config": own})
            yield Message(content=content, message_type=MessageType.TRAIN, dst_node_id=nodes[client])

    def aggregate_train(self, server_round, replies):
        """Say that the round is done."""
        replies = list(replies)
        found = super().aggregate_train(server_round, replies)
        failed = [reply.error for reply in replies if reply.has_error()]
        said(f"failed: {failed[0]}" if failed else "done")
        return found


@server_app.main()
def main(grid, context):
    """Hold the rounds."""
    del context
    while len(list(grid.get_node_ids())) < len(job.clients):
        time.sleep(0.1)
    said("ready")
    strategy = Steps(fraction_evaluate=0.0)
    rounds = len(job.cohorts)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(job.weights), num_rounds=rounds)
    asked(result.arrays.to_numpy_ndarrays)


if __name__ == "__main__":
    job = read_job(FOLDER)
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=len(job.clients),
        backend_config={
            "init_args": {"num_cpus": WORKERS, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
