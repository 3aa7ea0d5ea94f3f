"""From model outputs and readings to an answer: rules, health, anomalies, trend, warnings."""
