"""The network, the baselines, and their export to ONNX."""
