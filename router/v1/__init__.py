"""Generated from proto/router/v1 by `make proto`; do not edit."""
