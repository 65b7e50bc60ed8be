"""The relying party's side of updates: fetch, decide by `mtc.trust.updates`, keep, and hand out snapshots.

A folder holds `trust.toml` (whom to believe, where to ask), `state` (what is held, replaced as a whole), `anchors`
(what would convict a log that shows another history later), `history/<version>` (earlier states, for a rollback) and,
when it came to that, `private/evidence/`. Whatever goes wrong, the last good state stays.

The update service is asked for `latest` and then for a delta, or for everything where there is none that fits. It needs
no trust: unless a service key is pinned, each landmark comes with its proof. The policy key is always pinned.

Spec: Merkle Tree Certificates, "Trusted Subtrees"; docs/updates.md for files and formats.
"""

import json
import os
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mtc.cosign.evidence import Evidence, HeldSubtree, SplitTrees, SplitView
from mtc.cosign.evidence.service import EVIDENCE_PREFIX, EvidenceKeeper
from mtc.crypto import Verifier, parse_public_key, signature_algorithm_of
from mtc.errors import (
    Error,
    FormatError,
    PeerError,
    ProofError,
    Reason,
    Rejected,
    SignatureError,
    StorageError,
    UsageError,
)
from mtc.store import FileStore, ObjectStore
from mtc.trust.store import TrustStore
from mtc.trust.updates import (
    Anchor,
    Contradiction,
    Finding,
    Freshness,
    PlannedUpdate,
    UpdateState,
    UpdateTrust,
    encode_anchors,
    freshness_of,
    parse_anchors,
    plan_rollback,
    plan_update,
    trust_store_of,
)
from mtc.trust.updates.envelope import MAX_DOCUMENT_BYTES
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.files import read_config_file
from mtc.wire import DERReader, Tag, decode_base64, encode_base64

CONFIG_NAME = "trust.toml"
MAX_CONFIG_BYTES = 1 << 20
MAX_LATEST_BYTES = 1 << 16
MAX_HISTORY = 8
"""Earlier states that are kept."""
DEFAULT_STALE_AFTER_S = 6 * 3600
"""Age of an update from which on the lack of another one is worth a warning: six landmarks an hour apart."""

_GONE = (404, 410)
_STATE = "state"
_ANCHORS = "anchors"
_COLLECTOR = "a relying party"
_HISTORY = "history/"


@dataclass(frozen=True, slots=True)
class UpdaterConfig:
    """What a relying party was told once. url: of the update service, without a slash at its end.

    stale_after_s: see `freshness_of`.
    """

    url: str
    trust: UpdateTrust
    stale_after_s: int = DEFAULT_STALE_AFTER_S


@dataclass(frozen=True, slots=True)
class Updated:
    """What a look at the service gave. is_new: the state changed. bytes: fetched, bodies only, `latest` included.

    evidence: names of the bundles that this look gave, below `private/evidence/` of the folder; see docs/evidence.md.
    """

    state: UpdateState
    is_new: bool
    is_delta: bool
    findings: tuple[Finding, ...]
    freshness: Freshness
    bytes: int
    evidence: tuple[str, ...] = ()


def parse_pinned_key(spki: bytes) -> Verifier:
    """Return the key in a SubjectPublicKeyInfo (DER) whose algorithm its AlgorithmIdentifier names: ML-DSA or Ed25519.

    Raises FormatError.
    """
    reader = DERReader(spki, "the public key").enter(Tag.SEQUENCE)
    return parse_public_key(spki, signature_algorithm_of(reader.read_tlv(Tag.SEQUENCE)))


def format_updater_config(config: UpdaterConfig) -> str:
    """Return the commented configuration; `parse_updater_config` reads it."""

    def keys(verifiers: tuple[Verifier, ...]) -> str:
        return json.dumps([encode_base64(key.public_key) for key in verifiers], indent=2)

    return f"""# A relying party that is kept up to date. It believes what is written here, and what that proves.

url = {json.dumps(config.url)}
stale_after = {config.stale_after_s}  # seconds without a new update until that is worth a warning
# One of these keys signs the policy document: CAs, cosigners, revocations (SubjectPublicKeyInfo, base64).
policy_keys = {keys(config.trust.policy_keys)}
# With a key here the service is trusted for landmarks, and no proofs are asked for. Without, it need not be trusted.
service_keys = {keys(config.trust.service_keys)}
"""


def parse_updater_config(data: bytes, file: str = CONFIG_NAME) -> UpdaterConfig:
    """Read a configuration, strictly. Raises UsageError that names the file and what is wrong."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
        keys = {name: document.pop(name, []) for name in ("policy_keys", "service_keys")}
        url, stale_after = document.pop("url", None), document.pop("stale_after", DEFAULT_STALE_AFTER_S)
        if document:
            raise UsageError(Reason.USAGE, f"{next(iter(document))} is no key of this configuration")
        if not isinstance(url, str) or type(stale_after) is not int or stale_after < 1:
            raise UsageError(Reason.USAGE, "url must be a text, and stale_after a number of seconds")
        trust = UpdateTrust(*(tuple(_parse_keys(keys[name], name)) for name in ("policy_keys", "service_keys")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}", file=file) from None
    except Error as error:
        raise UsageError(error.reason, f"{file}: {error.message}", file=file) from None
    return UpdaterConfig(url, trust, stale_after)


def _parse_keys(value: object, name: str) -> list[Verifier]:
    """Read pinned keys."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(Reason.USAGE, f"{name} must be an array of keys, base64")
    return [parse_pinned_key(decode_base64(item, name)) for item in value]


def read_updater_config(folder: Path) -> UpdaterConfig:
    """Read the configuration in a folder. Raises UsageError when there is none."""
    file = folder / CONFIG_NAME
    data = read_config_file(file, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE, f"{folder} is no folder of a relying party, {CONFIG_NAME} is missing; run mtc trust init"
        )
    return parse_updater_config(data, str(file))


def create_updater(folder: Path, config: UpdaterConfig) -> bool:
    """Make the folder of a relying party; tell whether it is new. One that is there stays. Raises StorageError."""
    file = folder / CONFIG_NAME
    if file.exists():
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(format_updater_config(config))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{file} cannot be written: {text}", path=str(file)) from None
    return True


class Updater:
    """A relying party's folder, open for changes. Use `open`; one process at a time has it.

    state: what is held; a value, replaced by each update. fetched_bytes: of all bodies so far.
    """

    def __init__(self, folder: Path, config: UpdaterConfig, store: ObjectStore, state: UpdateState) -> None:
        """Use `open`."""
        self.folder, self.config, self.state = folder, config, state
        self.fetched_bytes = 0
        self._store = store
        self._keeper = EvidenceKeeper(store)

    @staticmethod
    @asynccontextmanager
    async def open(folder: Path) -> "AsyncIterator[Updater]":
        """Open a folder. Raises UsageError, StorageError (another process has it), FormatError (damaged state)."""
        config = read_updater_config(folder)
        store = FileStore.open(folder)
        try:
            data, anchors = await store.fetch([_STATE, _ANCHORS])
            state = UpdateState() if data is None else UpdateState.parse(data)
            if anchors is not None:
                state = replace(state, anchors=_read_anchors(anchors, folder))
            yield Updater(folder, config, store, state)
        finally:
            store.close()

    def snapshot(self, now: datetime) -> TrustStore:
        """Return the trust store to verify with; see `trust_store_of`."""
        return trust_store_of(self.state, now)

    def freshness(self, now: datetime) -> Freshness:
        """Tell how old what is held is."""
        return freshness_of(self.state, now, self.config.stale_after_s)

    async def update(self, http: HTTPClient, now: datetime) -> Updated:
        """Look once, and take what is new. What is held stays when anything is raised.

        Raises PeerError when the service does not answer, and what `plan_update` raises.
        """
        before = self.fetched_bytes
        latest, bases = await self._fetch_latest(http)
        planned: PlannedUpdate | None = None
        is_delta = False
        evidence: tuple[str, ...] = ()
        # An older one is a cache's, or somebody holds back news: then the state grows stale, which is told. What was
        # rolled back from is not fetched again.
        if latest > max(self.state.version, self.state.skipped):
            if self.state.version in bases:
                planned = await self._try_delta(http, latest, now)
                is_delta = planned is not None
            if planned is None:
                planned = self._plan(await self._fetch_update(http, f"{latest}"), now)
            # First, so that a crash in between loses nothing: the next look finds it again.
            evidence = await self._keep_evidence(planned.findings, now)
            await self._keep(planned.state)
        return Updated(
            self.state,
            planned is not None,
            is_delta,
            () if planned is None else planned.findings,
            self.freshness(now),
            self.fetched_bytes - before,
            evidence,
        )

    async def rollback(self, version: int | None = None) -> UpdateState:
        """Return to the landmarks of an earlier state, the one before without a version; see `plan_rollback`.

        Raises UsageError when that one is not kept, Rejected below the policy's floor.
        """
        kept = await self.versions()
        wanted = max((item for item in kept if item < self.state.version), default=None) if version is None else version
        if wanted is None or wanted not in kept:
            raise UsageError(
                Reason.USAGE, f"there is no such earlier state; kept are {', '.join(map(str, kept)) or 'none'}"
            )
        (data,) = await self._store.fetch([f"{_HISTORY}{wanted}"])
        assert data is not None
        await self._keep(replace(plan_rollback(self.state, UpdateState.parse(data)), anchors=self.state.anchors))
        return self.state

    async def versions(self) -> list[int]:
        """Return the versions of the earlier states that are kept, ascending."""
        keys = await self._store.list_keys(_HISTORY)
        return sorted(int(key.removeprefix(_HISTORY)) for key in keys if key.removeprefix(_HISTORY).isdecimal())

    async def _keep(self, state: UpdateState) -> None:
        """Replace the state; first keep the one before."""
        if self.state.version and self.state.version != state.version:
            await self._store.replace({f"{_HISTORY}{self.state.version}": self.state.encode()})
        # Anchors decide nothing, so that newer ones than the state do no harm.
        await self._store.replace({_ANCHORS: encode_anchors(state.anchors)})
        await self._store.replace({_STATE: state.encode()})
        self.state = state
        old = (await self.versions())[:-MAX_HISTORY]
        await self._store.discard([f"{_HISTORY}{version}" for version in old])

    async def _keep_evidence(self, findings: Sequence[Finding], now: datetime) -> tuple[str, ...]:
        """Keep what convicts cosigners; return the names."""
        names = []
        for contradiction in [item for finding in findings for item in finding.contradictions]:
            try:
                name = await self._keeper.keep(evidence_of(contradiction), now, _COLLECTOR)
            except (FormatError, ProofError, Rejected, SignatureError):
                # Not every line beside a cosigned tree is one of those that counted.
                continue
            if name is not None:
                names.append(name)
        return tuple(names)

    async def _try_delta(self, http: HTTPClient, latest: int, now: datetime) -> PlannedUpdate | None:
        """Return what a delta gives; None when everything must be fetched."""
        try:
            planned = self._plan(await self._fetch_update(http, f"{self.state.version}-{latest}"), now)
        except (Rejected, PeerError) as error:
            # A delta that is gone is as good as one that does not fit: the whole version decides.
            if error.reason is Reason.WRONG_BASE or error.facts.get("status") in _GONE:
                return None
            raise
        return None if planned.needs_whole else planned

    def _plan(self, data: bytes, now: datetime) -> PlannedUpdate:
        """Decide about an update."""
        return plan_update(self.state, data, self.config.trust, now)

    async def _fetch_update(self, http: HTTPClient, name: str) -> bytes:
        """Fetch one update."""
        kind = "signed" if self.config.trust.service_keys else "proven"
        return await self._fetch(http, f"{kind}/{name}", MAX_DOCUMENT_BYTES)

    async def _fetch_latest(self, http: HTTPClient) -> tuple[int, frozenset[int]]:
        """Return the latest version, and to which ones there are deltas: the service's word, no more."""
        data = await self._fetch(http, "latest", MAX_LATEST_BYTES)
        try:
            document = json.loads(data)
            version, bases = document["version"], document["bases"]
            if type(version) is not int or not all(type(item) is int for item in bases):
                raise ValueError("versions are numbers")  # noqa: TRY301 - the same fault as the others
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                Reason.BAD_DOCUMENT,
                f"{self.config.url}/latest is no list of versions: {error}; is it an update service?",
            ) from None
        return version, frozenset(bases)

    async def _fetch(self, http: HTTPClient, path: str, most: int) -> bytes:
        """Fetch a file of the service. Raises PeerError."""
        answer = await http.fetch(f"{self.config.url}/{path}", most=most)
        self.fetched_bytes += len(answer.body)
        if answer.status != 200:
            raise PeerError(Reason.PEER, f"{self.config.url}/{path} answers {answer.status}", status=answer.status)
        return answer.body


def _read_anchors(data: bytes, folder: Path) -> tuple[Anchor, ...]:
    """Read anchors. Raises FormatError with the cure."""
    try:
        return parse_anchors(data)
    except FormatError as error:
        raise FormatError(
            error.reason, f"{folder / _ANCHORS}: {error.message}; remove it, nothing but evidence depends on it"
        ) from None


def evidence_of(contradiction: Contradiction) -> Evidence:
    """Return a contradiction as a bundle that anybody can verify; nothing is verified here."""
    notes, sides = contradiction.notes, (contradiction.first, contradiction.second)
    exhibit: SplitTrees | SplitView
    if sides[0].tree.tree_size == sides[1].tree.tree_size:
        exhibit = SplitView(*notes)
    else:
        held = [HeldSubtree(note, side.held, side.proof) for note, side in zip(notes, sides, strict=True)]
        exhibit = SplitTrees(sides[0].subtree, held[0], held[1])
    return Evidence(contradiction.key, contradiction.origin, exhibit, contradiction.hash_name)


def count_evidence(folder: Path) -> int:
    """Return how many bundles of evidence a folder holds; an updater may run beside."""
    return sum(1 for _ in (folder / EVIDENCE_PREFIX).glob("*.json"))


def http_client() -> HTTPClient:
    """Return a client with the limits of an updater; to be opened."""
    return HTTPClient(ClientLimits(attempts=3, connections=4, answer_bytes=MAX_DOCUMENT_BYTES))


def read_update_state(folder: Path) -> tuple[UpdaterConfig, UpdateState]:
    """Return what a folder holds, without opening it for changes; an updater may run beside.

    Raises UsageError, FormatError.
    """
    config = read_updater_config(folder)
    data = read_config_file(folder / _STATE, 2 * MAX_DOCUMENT_BYTES)
    return config, UpdateState() if data is None else UpdateState.parse(data)


def load_trust_store(folder: Path, now: datetime) -> TrustStore:
    """Return the snapshot that a folder holds at `now`: the one call for programs that verify.

    Raises Rejected (EXPIRED, NO_LANDMARK) when nothing may be trusted, UsageError, FormatError.
    """
    return trust_store_of(read_update_state(folder)[1], now)
