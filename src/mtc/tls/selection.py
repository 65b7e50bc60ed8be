"""Decisions of both sides: what a client asks for, which path a server sends, and whether a failure is tried again.

The rules of selection, first come first served:

1. A path must be for the name that the client asked for, valid now, signed for with a scheme that the client knows,
   and, where it is a Merkle Tree certificate, sent in TLS 1.3 only, where the extension exists.
2. A landmark-relative path whose own ID the client listed; then one that belongs to a group that the client listed.
3. Any other path that belongs to a group that the client listed; then one whose own ID it listed, such as the CA's.
4. A path that needs no negotiation. One that is no Merkle Tree certificate is preferred: a client that did not list
   our CA most probably does not have it.

Within a rule the order of the configuration decides.

Spec: TLS Trust Anchor Identifiers, "Certificate Selection" and "Retry"; Merkle Tree Certificates, "Using Trust Anchor
Identifiers".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from mtc.errors import Reason, Rejected, UsageError
from mtc.ids import TrustAnchorID, landmark_group, landmark_id
from mtc.tls.extension import TrustAnchorsExtension, unique_anchors
from mtc.tls.paths import CertificationPath
from mtc.trust import ServerName, TrustedCA, TrustStore


class Match(IntEnum):
    """Why a path was selected; the lesser value goes first."""

    LANDMARK = 0
    """The client listed the very landmark."""
    LANDMARK_GROUP = 1
    """The client listed a group that the landmark belongs to."""
    GROUP = 2
    """The client listed a group that the path belongs to."""
    ID = 3
    """The client listed the path's own ID, for a standalone certificate the CA ID."""
    FALLBACK = 4
    """The client listed nothing that fits, or nothing at all."""

    @property
    def is_acknowledged(self) -> bool:
        """Whether the server says in its Certificate message that the client's list selected the path."""
        return self is not Match.FALLBACK


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server knows of a client when it selects.

    server_name: None when the client named none, or no host name. requested: None when the extension was not sent.
    signature_schemes: code points that the client accepts, None when that is not known.
    """

    server_name: ServerName | None = None
    requested: TrustAnchorsExtension | None = None
    signature_schemes: frozenset[int] | None = None
    is_tls13: bool = True


@dataclass(frozen=True, slots=True)
class Selection:
    """The path that a server sends, its place among the paths given, and why it was selected."""

    path: CertificationPath
    index: int
    match: Match


def select_path(paths: Sequence[CertificationPath], offer: Offer, now: datetime) -> Selection:
    """Select the path for a client, by the rules above.

    paths: in order of preference; none of them is sent if it has expired, unless every one has. Raises Rejected:
    NAME_MISMATCH when no path has the name, NO_PATH when those that have it cannot be used.
    """
    candidates = _candidates(paths, offer.server_name, now)
    best: Selection | None = None
    best_rank = (len(Match), False)
    requested = () if offer.requested is None else offer.requested.anchors
    for index, path in candidates:
        if not _is_usable(path, offer):
            continue
        match = match_path(path, requested)
        if match is Match.FALLBACK and path.needs_negotiation:
            continue
        rank = (int(match), match is Match.FALLBACK and path.is_mtc)
        if rank < best_rank:
            best, best_rank = Selection(path, index, match), rank
    if best is None:
        raise Rejected(
            Reason.NO_PATH,
            f"none of the {len(candidates)} certification paths for {offer.server_name or 'this server'} suits the "
            "client; add a classical certificate as a fallback",
        )
    return best


def match_path(path: CertificationPath, requested: Iterable[TrustAnchorID]) -> Match:
    """Tell by which of the IDs that a client listed a path may be sent, or that it may be by none."""
    own, groups = path.properties.trust_anchor_id, path.properties.groups
    by_id, by_group = Match.ID, Match.GROUP
    if path.is_landmark_relative:
        by_id, by_group = Match.LANDMARK, Match.LANDMARK_GROUP
    best = Match.FALLBACK
    for anchor in requested:
        if anchor == own:
            best = min(best, by_id)
        elif best > by_group and any(group.contains(anchor) for group in groups):
            best = by_group
    return best


def available_anchors(
    paths: Sequence[CertificationPath], server_name: ServerName | None, now: datetime
) -> TrustAnchorsExtension:
    """Return what a server lists in EncryptedExtensions: the IDs of all paths for the name, the first choice first.

    It is empty when no path for the name has an ID; then the extension is not sent.
    Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension".
    """
    try:
        candidates = _candidates(paths, server_name, now)
    except Rejected:
        return TrustAnchorsExtension()
    ordered = sorted(candidates, key=lambda item: not item[1].is_landmark_relative)
    anchors = [path.trust_anchor_id for _, path in ordered]
    return TrustAnchorsExtension(unique_anchors(anchor for anchor in anchors if anchor is not None)).cut_to_fit()


def requested_anchors(store: TrustStore, now: datetime) -> TrustAnchorsExtension:
    """Return what a client asks for: per CA and log the group of the newest landmark that it trusts, else the CA ID.

    A client that has no landmark of a CA that has not expired is too stale for its groups.
    Spec: Merkle Tree Certificates, "Using Trust Anchor Identifiers".
    """
    seconds = now.timestamp()
    anchors: list[TrustAnchorID] = []
    for ca in store.cas:
        newest = _newest_landmarks(ca, seconds)
        if newest:
            anchors.extend(landmark_group(ca.ca_id, number, newest[number]) for number in sorted(newest))
        else:
            anchors.append(ca.ca_id)
    return TrustAnchorsExtension(unique_anchors(anchors)).cut_to_fit()


def plan_retry(
    store: TrustStore, now: datetime, available: TrustAnchorsExtension | None, *, is_retry: bool
) -> TrustAnchorID | None:
    """Choose the one ID that a client asks for when it connects again, or None when it must give up.

    available: what the server listed in EncryptedExtensions, its first choice first; None when it sent nothing. It is
    the server's word, seen before the server was verified: it may choose among what the client trusts and no more.
    What the client's list did not cover goes first: a landmark that it covered may be the very one that failed.
    is_retry: the connection that failed was such a retry already; there is only one.
    Spec: TLS Trust Anchor Identifiers, "Retry".
    """
    if is_retry or available is None:
        return None
    asked = requested_anchors(store, now).anchors
    by_id = {ca.ca_id for ca in store.cas}
    seconds = now.timestamp()
    by_landmark = {
        landmark_id(ca.ca_id, trusted.log_number, trusted.landmark)
        for ca in store.cas
        for trusted in ca.trusted_subtrees
        if trusted.landmark is not None and seconds < trusted.expires_at
    }
    # Every landmark that the client trusts belongs to a group that it asked for.
    new = [anchor for anchor in available.anchors if anchor in by_id and anchor not in asked]
    known = [anchor for anchor in available.anchors if anchor in by_id or anchor in by_landmark]
    return next(iter(new + known), None)


def parse_server_name(text: str | None) -> ServerName | None:
    """Return the name of a server_name extension for selection, or None when there is none that can be read.

    A name that cannot be one, such as an address, selects as none does: RFC 6066 lets a server ignore it.
    """
    if text is None:
        return None
    try:
        return ServerName.parse(text)
    except UsageError:
        return None


def _newest_landmarks(ca: TrustedCA, seconds: float) -> dict[int, int]:
    """Return the highest landmark per log among a CA's trusted subtrees that have not expired."""
    newest: dict[int, int] = {}
    for trusted in ca.trusted_subtrees:
        if trusted.landmark is not None and seconds < trusted.expires_at:
            newest[trusted.log_number] = max(trusted.landmark, newest.get(trusted.log_number, 0))
    return newest


def _candidates(
    paths: Sequence[CertificationPath], name: ServerName | None, now: datetime
) -> list[tuple[int, CertificationPath]]:
    """Return the paths for a name that are valid, or all for the name when none is valid, with their places."""
    named = [(index, path) for index, path in enumerate(paths) if name is None or path.is_for(name)]
    if not named:
        raise Rejected(Reason.NAME_MISMATCH, f"there is no certification path for {name}", name=str(name))
    return [item for item in named if item[1].is_valid_at(now)] or named


def _is_usable(path: CertificationPath, offer: Offer) -> bool:
    """Tell whether the client can use the path at all: its version, and its key's signatures."""
    if path.is_mtc and not offer.is_tls13:
        return False
    known = offer.signature_schemes
    return known is None or not path.signature_schemes or not known.isdisjoint(path.signature_schemes)
