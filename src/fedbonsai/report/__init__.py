"""What people look at: the comparison table, the self-contained report page, TensorBoard event files."""
