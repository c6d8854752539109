"""Pure tensor mathematics of pruning: scores, budgets, schedules, masks. No federated words."""
