"""Reports for people: plots, one self-contained HTML page, and progress in a terminal; pure functions on plain data."""
