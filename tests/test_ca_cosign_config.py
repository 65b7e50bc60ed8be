"""The cosigners and the quorum in ca.toml: read strictly, written back the same, and nothing that cannot work."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.note_keys import TestSigner
from tests.pooled_logs import signer
from tests.test_ca_cosigned import make

from mtc.ca.config import CAConfig, format_config, parse_config, read_config
from mtc.ca.cosigning.adding import add_cosigner
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig, GroupTable, QuorumTable
from mtc.cli.ca import CosignerOptions, run_add_cosigner
from mtc.cosign.config import Role
from mtc.errors import UsageError
from mtc.ids import TrustAnchorID
from mtc.note import SignatureType
from mtc.profile import PRIVATE_SERVICE, WEB_PKI

CA_ID = TrustAnchorID.parse("32473.1")
PLAIN = TestSigner("witness.example/w", SignatureType.COSIGNATURE_ED25519, 50)


def table(name: str, number: int, role: Role = Role.MIRROR) -> CosignerTable:
    """Return a cosigner's table."""
    return CosignerTable(name=name, role=role, key=signer(number).key, url=f"https://{name}.example")


THREE = (table("m1", 9), table("m2", 19), table("w1", 8, Role.WITNESS))


def text_of(*parts: str, profile: str = "private") -> bytes:
    """Return a configuration with these parts."""
    return "\n".join([f'id = "32473.1"\nprofile = "{profile}"', *parts, ""]).encode()


def lines(name: str, number: int, role: str = "mirror", *, url: str | None = None, key: str | None = None) -> str:
    """Return a cosigner's lines."""
    vkey = key or signer(number).key.encode()
    return (
        f'[[cosigner]]\nname = "{name}"\nrole = "{role}"\nvkey = "{vkey}"\nurl = "{url or f"https://{name}.example"}"\n'
    )


@pytest.mark.parametrize(
    "rule",
    [
        QuorumTable(),
        QuorumTable(at_least=0),
        QuorumTable(at_least=2),
        QuorumTable(required=("m1",), at_least=1, of=("m2", "w1")),
        QuorumTable(
            required=("both",),
            wait=timedelta(minutes=1),
            grace=timedelta(milliseconds=5),
            run_ahead=False,
            needs_view=True,
        ),
    ],
    ids=str,
)
def test_written_cosigners_are_read_back(rule: QuorumTable) -> None:
    """The file that is written for cosigners, groups and a quorum means them, and so does one without any."""
    tables = (*THREE, replace(THREE[0], name="x", key=signer(29).key, deadline=timedelta(seconds=3)))
    cosigning = CosigningConfig(tables=tables, groups=(GroupTable("both", 2, ("m1", "m2")),), rule=rule)
    config = CAConfig(ca_id=CA_ID, cosigning=cosigning)
    assert parse_config(format_config(config).encode()) == config
    empty = CAConfig(ca_id=CA_ID)
    assert parse_config(format_config(empty).encode()) == empty
    assert empty.cosigning.quorum.requires_nobody


def test_defaults_follow_the_profile() -> None:
    """Without a rule one mirror is needed; waiting, running ahead and views are the profile's choices."""
    assert str(CosigningConfig(tables=THREE).quorum) == "1 of m1, m2"
    assert str(CosigningConfig(tables=THREE[2:]).quorum) == "w1"
    web = parse_config(text_of(lines("m1", 9), profile="web-pki"))
    assert (web.may_run_ahead, web.needs_view, web.quorum_wait) == (False, True, timedelta(minutes=5))
    private = parse_config(text_of(lines("m1", 9)))
    assert (private.may_run_ahead, private.needs_view) == (True, False)
    chosen = parse_config(text_of(lines("m1", 9), '[quorum]\nrun_ahead = false\nneeds_view = true\nwait = "7s"'))
    assert (chosen.may_run_ahead, chosen.needs_view, chosen.quorum_wait) == (False, True, timedelta(seconds=7))
    assert not parse_config(text_of(profile="web-pki")).needs_view, "without cosigners there is nobody to ask"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((lines("m1", 9), lines("m1", 19)), "has the same name as m1"),
        ((lines("m1", 9), lines("w1", 9, "witness")), "has the same name in its vkey as m1"),
        (
            (lines("m1", 9), lines("w1", 0, "witness", key=TestSigner("oid/1.3.6.1.4.1.32473.8", 6, 9).key.encode())),  # type: ignore[arg-type]  # the number of the type
            "has the same public key as m1",
        ),
        ((lines("m1", 1),), "has the name of this CA"),
        ((lines("m1", 0, key=PLAIN.key.encode()),), "cannot stand in certificates"),
        ((lines("m1", 9, "guard"),), "neither witness nor mirror"),
        ((lines("m1", 9, url="m1.example"),), "is no URL prefix"),
        ((lines("m 1", 9),), "is no name of a cosigner"),
        (('[[cosigner]]\nname = "m1"',), "has no vkey"),
        (('[[cosigner]]\nrole = "mirror"',), "name is missing"),
        (('[[cosigner]]\nname = "m1"\nvkey = "m1"',), "is no verifier key"),
        ((lines("m1", 9) + 'colour = "red"',), "cosigner 1.colour is no key"),
        ((lines("m1", 9) + 'deadline = "0s"',), "deadline of cosigner m1"),
        ((lines("m1", 9) + 'deadline = "1d"',), "at most 5m"),
        (("cosigner = 5",), r"under a line \[\[cosigner\]\]"),
        ((lines("m1", 9), "[quorum]\nat_least = 2"), "cannot require 2"),
        ((lines("m1", 9), '[quorum]\nrequired = ["m2"]'), "'m2' is no cosigner"),
        ((lines("m1", 9), '[quorum]\nof = ["m1"]'), "say with at_least how many"),
        ((lines("m1", 9), "[quorum]\nat_least = -1"), "a number from 0 on"),
        ((lines("m1", 9), "[quorum]\nat_least = true"), "a number from 0 on"),
        ((lines("m1", 9), '[quorum]\nrun_ahead = "no"'), "true or false"),
        ((lines("m1", 9), '[quorum]\nrequired = ["m1", "m1"]'), "counts each member once"),
        ((lines("m1", 9), "[quorum]\nmost = 3"), "quorum.most is no key"),
        ((lines("m1", 9), '[[group]]\nname = "g"'), "at_least must be there"),
        ((lines("m1", 9), '[[group]]\nname = "g"\nat_least = 1\nmembers = []'), "has no members"),
        ((lines("m1", 9), '[[group]]\nname = "m1"\nat_least = 1\nmembers = ["m1"]'), "are called m1"),
        (("[quorum]\nat_least = 1",), "cannot require 1"),
        ((lines("m1", 9), '[quorum]\npolicy_file = "p"\nat_least = 1'), "says what is enough"),
    ],
)
def test_what_cannot_work_is_refused(parts: tuple[str, ...], message: str) -> None:
    """Each mistake gives an error that names the file and says what is wrong."""
    with pytest.raises(UsageError, match=message) as error:
        parse_config(text_of(*parts))
    assert error.value.message.startswith("ca.toml")


@pytest.mark.parametrize("component", ["0x1", "01", "-1", "a", "1..2", "٣", ""])
def test_oid_names_with_unsupported_components_are_refused(component: str) -> None:
    """A name that looks like an OID and is no trust anchor ID is refused, for a witness too."""
    key = TestSigner(f"oid/1.3.6.1.4.1.32473.{component}", SignatureType.COSIGNATURE_MLDSA44, 60).key
    with pytest.raises(UsageError, match="cannot stand in certificates"):
        parse_config(text_of(lines("w1", 0, "witness", key=key.encode())))


def test_plain_key_is_no_cosigner() -> None:
    """A key of type 0x01 signs no cosignatures."""
    key = TestSigner("log.example", SignatureType.ED25519, 60).key
    with pytest.raises(UsageError, match="type 0x01"):
        parse_config(text_of(lines("w1", 0, "witness", key=key.encode())))


WITNESS = lines("w1", 8, "witness")


@pytest.mark.parametrize(
    "parts",
    [
        (WITNESS,),
        (WITNESS, lines("m1", 9), "[quorum]\nat_least = 1"),
        (WITNESS, lines("m1", 9), "[quorum]\nat_least = 0"),
        (WITNESS, lines("m1", 9), '[quorum]\nrequired = ["w1"]'),
    ],
)
def test_web_profile_needs_a_mirror(parts: tuple[str, ...]) -> None:
    """In the web profile a quorum that witnesses alone could meet is refused; the private one takes it."""
    parse_config(text_of(*parts))
    with pytest.raises(UsageError, match="needs a mirror beside the CA"):
        parse_config(text_of(*parts, profile="web-pki"))


@given(st.lists(st.sampled_from(["m1", "m2", "w1"]), unique=True), st.integers(0, 3))
def test_web_profile_accepts_just_what_needs_a_mirror(required: list[str], at_least: int) -> None:
    """A rule is taken in the web profile when no set without a mirror meets it, and in no other case."""
    cosigning = CosigningConfig(tables=THREE, rule=QuorumTable(required=tuple(required), at_least=at_least))
    needs_mirror = not cosigning.quorum.is_satisfied({"w1"})
    cosigning.check(CA_ID, PRIVATE_SERVICE)
    if needs_mirror:
        cosigning.check(CA_ID, WEB_PKI)
    else:
        with pytest.raises(UsageError):
            cosigning.check(CA_ID, WEB_PKI)


def test_policy_file_names_cosigners_and_quorum(tmp_path: Path) -> None:
    """A C2SP policy file gives keys, URLs, groups and the quorum; tables add roles and must agree with it."""
    policy = (
        f"log {signer(1).key.encode()} https://ca.example/1\n"
        f"witness m1 {signer(9).key.encode()} https://m1.example/\n"
        f"witness m2 {signer(19).key.encode()} https://m2.example\n"
        f"witness w1 {PLAIN.key.encode()} https://w1.example\n"
        "group mirrors any m1 m2\ngroup all all mirrors w1\nquorum all\n"
    )
    roles = '[[cosigner]]\nname = "m1"\nrole = "mirror"\n[[cosigner]]\nname = "m2"\nrole = "mirror"\nurl = "http://x"\n'
    (tmp_path / "ca.toml").write_bytes(text_of(roles, '[quorum]\npolicy_file = "policy.txt"', profile="web-pki"))
    with pytest.raises(UsageError, match=r"policy.txt cannot be read"):
        read_config(tmp_path)
    (tmp_path / "policy.txt").write_text(policy)
    cosigning = read_config(tmp_path).cosigning
    assert [(peer.name, peer.role, peer.url) for peer in cosigning.peers] == [
        ("m1", Role.MIRROR, "https://m1.example"),
        ("m2", Role.MIRROR, "http://x"),
        ("w1", Role.WITNESS, "https://w1.example"),
    ]
    assert str(cosigning.quorum) == "all of (1 of m1, m2), w1"
    for wrong, message in (
        (policy.replace("quorum all", "quorum none"), "needs a mirror"),
        (policy.replace(" https://w1.example", ""), "has no url"),
        (policy.replace(" m2", " m3"), "cosigner m2 has no vkey"),
        (policy.replace("quorum all", "quorum nobody"), "policy.txt: "),
        (policy.replace("w1 ", "w{1} ").replace("mirrors w1", "mirrors w{1}"), "is no name of a cosigner"),
    ):
        (tmp_path / "policy.txt").write_text(wrong)
        with pytest.raises(UsageError, match=message):
            read_config(tmp_path)


def test_cosigners_are_added_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adding is checked before anything is written, keeps what stands in the file, and may be repeated."""
    make(tmp_path)
    path = tmp_path / "ca.toml"
    path.write_text(path.read_text() + "# mine\n")
    for item in THREE:
        assert add_cosigner(tmp_path, item)
    before = path.read_text()
    assert "# mine" in before
    assert not add_cosigner(tmp_path, THREE[0])
    for wrong, message in (
        (replace(THREE[0], url="https://other.example"), "another cosigner called m1"),
        (replace(THREE[0], name="m9"), "same name in its vkey"),
        (table("x", 1), "name of this CA"),
    ):
        with pytest.raises(UsageError, match=message):
            add_cosigner(tmp_path, wrong)
    assert path.read_text() == before
    assert read_config(tmp_path).cosigning.tables == THREE
    vkey = tmp_path / "key.txt"
    vkey.write_text(signer(29).key.encode() + "\n")
    options = CosignerOptions(
        str(tmp_path), "m3", "mirror", str(vkey), "https://m3.example/", None, "3s", as_json=False
    )
    run_add_cosigner(options)
    assert "a round now needs 1 of m1, m2, m3" in capsys.readouterr().out
    run_add_cosigner(options)
    assert "nothing was changed" in capsys.readouterr().out
    assert not list(tmp_path.glob(".ca.toml*")), "nothing temporary is left"
