"""A CA, three mirrors and two witnesses as real processes, each in a namespace of its own where that is permitted."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mtc.ca.config import CONFIG_NAME, CAConfig, format_config
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig, GroupTable, QuorumTable
from mtc.ca.folder import create_folder
from mtc.cosign.config import CosignerConfig, Role
from mtc.cosign.logs import KnownCA
from mtc.cosign.service.folder import CosignerFolder, add_log, create_cosigner
from mtc.crypto import Verifier
from mtc.ids import TrustAnchorID, log_id
from mtc.note import SignatureType, VerifierKey
from mtc.profile import PRIVATE_SERVICE
from mtc.testing.fleet import Fleet, Member, free_port
from mtc.testing.network import NoNetworkError, SwitchedNetwork, open_network
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustStore, trusted_ca_from_certificate

CA_ID = TrustAnchorID.parse("32473.1")
ORIGIN = log_id(CA_ID, 1).oid_name
MIRRORS, WITNESSES = ("m1", "m2", "m3"), ("w1", "w2")
COSIGNERS = MIRRORS + WITNESSES
MIRROR_QUORUM, WITNESS_QUORUM = 2, 1
_PORT = 8080
_ROUND = timedelta(milliseconds=200)


@dataclass(slots=True)
class Town:
    """The parties. wanted: who shall run; who is dead and wanted is started again, as a service manager does.

    keys: by party. stores: trust that asks for the quorum, in as many parts as a policy needs.
    """

    fleet: Fleet
    network: SwitchedNetwork | None
    config: CAConfig
    keys: dict[str, VerifierKey]
    stores: tuple[TrustStore, ...]
    wanted: set[str] = field(default_factory=set)

    def member(self, name: str) -> Member:
        """Return a party."""
        return self.fleet.members[name]

    @property
    def socket(self) -> Path:
        """Where the CA is asked."""
        return self.member("ca").folder / self.config.socket

    def flip_run_ahead(self) -> None:
        """Change whether the CA may run ahead of its quorum, from its next start on."""
        rule = self.config.cosigning.rule
        self.write_rule(replace(rule, run_ahead=not rule.run_ahead))

    def write_rule(self, rule: QuorumTable) -> None:
        """Give the CA another quorum, from its next start on."""
        self.config = replace(self.config, cosigning=replace(self.config.cosigning, rule=rule))
        (self.member("ca").folder / CONFIG_NAME).write_text(format_config(self.config), "utf-8")


def _place(fleet: Fleet, network: SwitchedNetwork | None, name: str, role: str) -> Member:
    """Decide where a party lives."""
    if network is None:
        member = Member(name, role, fleet.folder / name, free_port())
    else:
        member = Member(name, role, fleet.folder / name, _PORT, network.address(name), "", network.prefix(name))
    fleet.members[name] = member
    return member


def build_town(folder: Path, network: SwitchedNetwork | None) -> Town:
    """Make the folders of a CA and its cosigners, who know each other."""
    fleet = Fleet(folder)
    ca = _place(fleet, network, "ca", "ca")
    config = CAConfig(
        ca_id=CA_ID, profile=PRIVATE_SERVICE, prefix_url=ca.url, listen=(ca.host, ca.port),
        overrides={"round_interval": _ROUND},
    )  # fmt: skip
    config = replace(config, profile=replace(PRIVATE_SERVICE, round_interval=_ROUND))
    made, _ = create_folder(ca.folder, config, None, datetime.now(UTC))
    key = VerifierKey.from_spki(
        CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, made.certificate.public_key.public_key
    )
    keys = {"ca": key}
    tables = []
    for number, name in enumerate(COSIGNERS):
        role = Role.MIRROR if name in MIRRORS else Role.WITNESS
        member = _place(fleet, network, name, str(role))
        own = CosignerConfig(
            role=role, cosigner_id=TrustAnchorID.parse(f"32473.{100 + number}"), listen=(member.host, member.port),
            follow_interval=timedelta(seconds=2),
        )  # fmt: skip
        create_cosigner(member.folder, own, None)
        (keys[name],) = (item.key for item in CosignerFolder.read(member.folder).keys)
        # One mirror fetches what it lacks by itself, beside what the CA brings it.
        add_log(member.folder, KnownCA(key, ca.url, is_followed=name == MIRRORS[-1]), (keys[name],))
        tables.append(
            CosignerTable(name=name, role=role, key=keys[name], url=member.url, deadline=timedelta(seconds=2))
        )
    groups = (
        GroupTable("mirrors", MIRROR_QUORUM, MIRRORS),
        GroupTable("witnesses", WITNESS_QUORUM, WITNESSES),
    )
    rule = QuorumTable(
        required=("mirrors", "witnesses"), wait=timedelta(seconds=4), grace=timedelta(milliseconds=200),
        run_ahead=False, needs_view=True,
    )  # fmt: skip
    config = replace(config, cosigning=CosigningConfig(tables=tuple(tables), groups=groups))
    trusted = trusted_ca_from_certificate(made.certificate)
    stores = _trust(trusted, keys, MIRRORS, MIRROR_QUORUM), _trust(trusted, keys, WITNESSES, WITNESS_QUORUM)
    town = Town(fleet, network, config, keys, stores)
    town.write_rule(rule)
    return town


def _trust(ca: TrustedCA, keys: dict[str, VerifierKey], names: Sequence[str], at_least: int) -> TrustStore:
    """Return trust in a CA with so many of these cosigners."""

    def cosigner(key: Verifier, name: str) -> Cosigner:
        return Cosigner(TrustAnchorID.parse_oid_name(name), key)

    others = tuple(cosigner(keys[name].verifier, keys[name].name) for name in names)
    policy = CosignerPolicy((ca.ca_id,), tuple(item.cosigner_id for item in others), at_least)
    return TrustStore([replace(ca, cosigners=(*ca.cosigners, *others), policy=policy)])


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as ctrl-C does, so that no process and no namespace stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def town_in(folder: Path, tell: Callable[[str], None]) -> Iterator[Town]:
    """Give the parties, in namespaces where that is permitted; end and remove all afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_interrupted_by_sigterm())
        network: SwitchedNetwork | None = None
        try:
            network = stack.enter_context(open_network(["ca", *COSIGNERS]))
        except NoNetworkError as error:
            tell(f"no namespaces here, so no delays and no partitions: {error}")
        folder.mkdir(parents=True, exist_ok=True)
        town = build_town(folder, network)
        stack.callback(town.fleet.stop)
        stack.callback(town.wanted.clear)
        yield town
