"""One federated round, and the run that repeats it: server, clients, aggregation, ledger, checkpoint."""
