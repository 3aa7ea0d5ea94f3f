"""From raw readings to the model's inputs."""
