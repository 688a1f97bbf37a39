"""The AdminService. Who may call it is decided in router.service.middleware.authentication."""

import asyncio

from router.service.bundle_manager import BundleManager
from router.service.middleware.call import Call
from router.v1 import admin_pb2 as pb

ADMIN = pb.DESCRIPTOR.services_by_name["AdminService"].full_name


class AdminService:
    """Lists, activates and rolls back bundles, and sets the shadow bundle."""

    def __init__(self, bundles: BundleManager):
        self.bundles = bundles

    async def ListBundles(self, message: pb.ListBundlesRequest, call: Call) -> pb.ListBundlesResponse:
        bundles = await asyncio.to_thread(self.bundles.list)
        active = self.bundles.active.bundle.digest
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

    async def ActivateBundle(self, message: pb.ActivateBundleRequest, call: Call) -> pb.ActivateBundleResponse:
        bundle, previous = await self.bundles.activate(message.name, message.digest)
        return pb.ActivateBundleResponse(id=bundle.id, previous_id=previous.id if previous else "")

    async def RollBackBundle(self, message: pb.RollBackBundleRequest, call: Call) -> pb.RollBackBundleResponse:
        return pb.RollBackBundleResponse(id=(await self.bundles.roll_back()).id)

    async def ShadowBundle(self, message: pb.ShadowBundleRequest, call: Call) -> pb.ShadowBundleResponse:
        return pb.ShadowBundleResponse(id=await self.bundles.set_shadow(message.name, message.digest))
