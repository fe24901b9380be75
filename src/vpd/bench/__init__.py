"""`vpd bench`: how fast a model is on this machine, and which options pay."""
