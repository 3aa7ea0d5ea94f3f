"""Training data: recordings, simulated windows, tensors, and splits."""
