"""Out-of-fold evaluation, calibration, comparison and reports."""
