"""Rollouts decided by evidence: counters per arm, sequential tests, canaries, shadows."""
