"""Tells who may connect and who is calling: addresses, certificates, callers and their bearer tokens."""
