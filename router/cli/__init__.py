"""The `router` commands, one file for each group. Settings are read only here."""

import os

# Silences gRPC's core, which writes lines that aren't JSON and say less than our errors. Read when gRPC is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
