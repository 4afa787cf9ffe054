"""What computes: memory, processes that share a run, and when a loop may look at its values."""
