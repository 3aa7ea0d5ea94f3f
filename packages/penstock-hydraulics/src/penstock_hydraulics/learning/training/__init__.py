"""Training of the network, with checkpoints."""
