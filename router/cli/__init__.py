"""The `router` commands, one file a group. Settings are read here and nowhere else."""

import os

# What gRPC's core writes on standard error is no JSON, and our errors say it better. Read once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
