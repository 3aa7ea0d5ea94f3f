"""The page for maintenance engineers at `/hydraulics`, and the reads it is made of."""
