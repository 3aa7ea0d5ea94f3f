"""Training, evaluation and publication of the models. Nothing here is imported by the server."""
