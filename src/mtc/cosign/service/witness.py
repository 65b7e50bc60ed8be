"""A running witness: it remembers the largest tree of each log, and cosigns what continues it.

Spec: C2SP tlog-witness.
"""

import asyncio

from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView, plan_checkpoint
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.cosign.service.core import Core, state_name, whole
from mtc.errors import ConflictError, ProofError, SignatureError


class Witness:
    """The witness's two requests. Calls may overlap; those for one log come one after the other."""

    def __init__(self, core: Core) -> None:
        """Use `open`."""
        self.core = core
        # The register's values as this process wrote or read them; each guarded by its log's lock.
        self._views: dict[str, tuple[bytes, CosignerView]] = {}

    @staticmethod
    async def open(core: Core) -> "Witness":
        """Read what was accepted before."""
        witness = Witness(core)
        await core.open()
        for origin in core.origins:
            data = await core.register.read(state_name(origin))
            if data is not None:
                witness._views[origin] = data, CosignerView.parse(data)
        return witness

    def view(self, origin: str) -> CosignerView | None:
        """Return the largest tree accepted of a log, None without one."""
        found = self._views.get(origin)
        return None if found is None else found[1]

    async def add_checkpoint(self, request: AddCheckpoint) -> bytes:
        """Return signature lines over the checkpoint, whose view is durable. Raises what `plan_checkpoint` raises."""
        return await whole(self._add(self.core.find(request.checkpoint.origin), request))

    async def _add(self, log: KnownLog, request: AddCheckpoint) -> bytes:
        """Wait for the log's turn, judge, sign and swap; afterwards look at what a refused request proves."""
        async with self.core.lock(log.origin):
            view = self.view(log.origin)
            try:
                return await self._judge(log, request)
            except (ProofError, ConflictError, SignatureError) as error:
                refusal = error
        await self.core.refused(log, view, request, refusal)
        raise refusal

    async def _judge(self, log: KnownLog, request: AddCheckpoint) -> bytes:
        """Judge, sign and swap, as the only one for this log."""
        core = self.core
        old, view = self._views.get(log.origin, (None, None))
        after = await asyncio.to_thread(plan_checkpoint, core.hasher, log, view, request)
        signed = await core.sign_view(log, after, view)
        if old is None:
            await core.remember(log.origin)
        data = signed.encode()
        try:
            await core.swap(state_name(log.origin), old, data)
        except ConflictError:
            await self._read_again(log.origin)
            raise
        self._views[log.origin] = data, signed
        return signed.lines

    async def _read_again(self, origin: str) -> None:
        """Take over what another process wrote."""
        data = await self.core.register.read(state_name(origin))
        if data is not None:
            self._views[origin] = data, CosignerView.parse(data)

    async def sign_subtree(self, request: SignSubtree) -> bytes:
        """Return signature lines over a subtree. Raises what `plan_subtree` raises."""
        return await self.core.sign_subtree(request)

    def checkpoint(self, origin: str) -> bytes | None:
        """Return the latest cosigned checkpoint of a log, None without one."""
        view = self.view(origin)
        return None if view is None else view.cosigned
