"""The `router` commands, one file a group. Settings are read here and nowhere else."""
