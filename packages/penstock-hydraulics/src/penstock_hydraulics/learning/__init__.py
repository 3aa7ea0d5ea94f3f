"""Training, export and evaluation. Needs the extra `train`; nothing here is imported while serving."""
