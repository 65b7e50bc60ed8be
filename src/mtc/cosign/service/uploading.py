"""Bringing a mirror the entries that it lacks, in as many requests as it takes.

A request carries at most 32 packages and about `MAX_REQUEST_BYTES`. Each answer says where the mirror stands and gives
a ticket for the next request; nothing of that is proven, so it is believed only as far as it moves forward.

Spec: C2SP tlog-mirror, "add-entries".
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from mtc.cosign.service.client import CosignerClient
from mtc.cosign.upload import PACKAGES_PER_REQUEST, MirrorInfo, PackagePlace, UploadHead, package_places
from mtc.errors import PeerError, Reason
from mtc.note import Checkpoint, NoteSignature

MAX_REQUEST_BYTES = 4 << 20
"""About how many bytes of packages, before compression, stand in one request; a single package may be larger."""
MAX_STALLS = 4
"""How many answers may bring nothing forward: a wrong first guess, an overtaken upload, a mirror that restarted."""

_PACKAGES_AT_ONCE = 4


class EntrySource(Protocol):
    """Where the entries of a log and their proofs come from."""

    async def read_packages(self, places: Sequence[PackagePlace], tree_size: int) -> list[bytes]:
        """Return encoded packages, each proven to the tree of `tree_size` entries, in the order asked.

        Raises StorageError or PeerError when entries are not there any more.
        """


async def upload_entries(
    client: CosignerClient,
    checkpoint: Checkpoint,
    start: int,
    source: EntrySource,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[NoteSignature, ...] | MirrorInfo:
    """Upload what a mirror lacks up to `checkpoint`, which it must have seen by add-checkpoint.

    start: a guess of the first entry that it lacks. tell: hears how far the mirror has come. Returns the mirror's
    verified lines over the checkpoint, or its word when it wants entries for another size. Raises PeerError when
    `MAX_STALLS` answers brought nothing forward, and what the client and the source raise.
    """
    end = checkpoint.tree_size
    position, ticket, stalls = min(start, end), b"", 0
    while True:
        head = UploadHead(checkpoint.origin, position, end, ticket)
        answer = await client.send_entries(head, await _next_packages(head, source), checkpoint)
        if not isinstance(answer, MirrorInfo):
            return answer
        if answer.tree_size != end:
            return answer
        # A package is stored whole or not at all; whoever stores less than one brings nothing forward.
        least = next((place.end for place in package_places(position, end)), end + 1)
        following = min(answer.next_entry, end)
        if following < least:
            stalls += 1
            if stalls > MAX_STALLS:
                raise PeerError(
                    Reason.PEER,
                    f"mirror {client.peer.name}: the upload does not come forward from entry {following}",
                    next_entry=following,
                )
        position, ticket = following, answer.ticket
        tell(position)


async def _next_packages(head: UploadHead, source: EntrySource) -> list[bytes]:
    """Return the first packages of an upload, as many as fit into a request."""
    packages: list[bytes] = []
    size = 0
    places = package_places(head.start, head.end)
    while size < MAX_REQUEST_BYTES and len(packages) < PACKAGES_PER_REQUEST:
        # A few at a time, so that large entries do not fill the memory.
        some = list(islice(places, _PACKAGES_AT_ONCE))
        if not some:
            break
        packages += await source.read_packages(some, head.end)
        size = sum(map(len, packages))
    return packages
