"""Exit with 0 where the router on this machine takes calls: the health check of its container.

The port is the server's own setting, ROUTER_PORT. With ROUTER_TLS_CERT only a connection is tried: the certificate is
made out to the public name, by authorities that the container need not know. Health needs no token.
"""

import os
import socket
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

port = int(os.environ.get("ROUTER_PORT", "50551"))
try:
    if os.environ.get("ROUTER_TLS_CERT"):
        socket.create_connection(("127.0.0.1", port), timeout=4).close()
    else:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=4)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            sys.exit("the router is stopping")
except (OSError, grpc.RpcError) as error:
    sys.exit(f"no router takes calls on port {port}: {error}")
