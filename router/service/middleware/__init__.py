"""Middleware: code around every call, the same for gRPC and HTTP.

``call`` defines a call, ``chain`` the protocol of middleware. Each other file is one middleware. None depends on gRPC.
"""
