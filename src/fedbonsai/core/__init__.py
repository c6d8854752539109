"""The vocabulary of every layer: tensors, supports, messages, states, errors, seeds. Torch and stdlib only."""
