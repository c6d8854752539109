"""The vocabulary of every layer: tensors, supports, messages, states, errors, seeds.

Torch, NumPy and stdlib only.
"""
