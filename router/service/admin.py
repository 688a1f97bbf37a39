"""The AdminService: parse, call, render. Who may call it is decided in router.service.middleware."""

import asyncio

import grpc

from router.service.bundles import Serving
from router.v1 import admin_pb2 as pb
from router.v1 import admin_pb2_grpc

ADMIN = pb.DESCRIPTOR.services_by_name["AdminService"].full_name


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, serving: Serving):
        self.serving = serving

    async def ListBundles(
        self, message: pb.ListBundlesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListBundlesResponse:
        bundles = await asyncio.to_thread(self.serving.list)
        active = self.serving.active.bundle.digest
        return pb.ListBundlesResponse(
            bundles=[
                pb.BundleSummary(
                    name=each.name,
                    digest=each.digest,
                    id=each.id,
                    active=each.digest == active,
                    problem=each.problem,
                )
                for each in bundles
            ]
        )

    async def ActivateBundle(
        self, message: pb.ActivateBundleRequest, context: grpc.aio.ServicerContext
    ) -> pb.ActivateBundleResponse:
        bundle, previous = await self.serving.activate(message.name, message.digest)
        return pb.ActivateBundleResponse(id=bundle.id, previous_id=previous.id)

    async def RollBackBundle(
        self, message: pb.RollBackBundleRequest, context: grpc.aio.ServicerContext
    ) -> pb.RollBackBundleResponse:
        return pb.RollBackBundleResponse(id=(await self.serving.roll_back()).id)

    async def ShadowBundle(
        self, message: pb.ShadowBundleRequest, context: grpc.aio.ServicerContext
    ) -> pb.ShadowBundleResponse:
        return pb.ShadowBundleResponse(id=await self.serving.cast(message.name, message.digest))
