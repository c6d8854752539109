"""Flower's PyTorch quickstart, pruned."""
