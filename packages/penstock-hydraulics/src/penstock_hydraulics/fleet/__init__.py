"""The registered machines and their stored results: schemas, database, and the in-process cache."""
