"""The signer's folder: its configuration, its key, and what is refused before anything is signed."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.crypto import Signer, generate_key, parse_signature_algorithm
from mtc.errors import Error, Reason, UsageError
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.signer import KeySource, SignerConfig, format_signer_config, parse_signer_config
from mtc.signer.service import create_signer, load_signer, read_passphrase, register_key_backend

CONFIG = SignerConfig(ca_id=TrustAnchorID.parse("32473.1"))
KEY_FILE = "key.pem"


@given(
    st.builds(
        SignerConfig,
        ca_id=st.just(CONFIG.ca_id),
        revision=st.sampled_from(list(REVISIONS.values())),
        hash_name=st.sampled_from(["sha256", "sm3"]),
        algorithm=st.sampled_from(["ml-dsa-44", "ecdsa-p256-sha256"]),
        highest_log=st.integers(1, 65535),
        max_skew_s=st.integers(0, 86400),
        max_crl_lifetime_s=st.integers(1, 10**8),
        entry_types=st.frozensets(st.integers(0, 65535)),
        extension_types=st.frozensets(st.integers(0, 65535)),
        has_counter=st.booleans(),
        key=st.builds(
            KeySource,
            kind=st.text(st.characters(exclude_categories=["Cs"])),
            options=st.dictionaries(
                st.from_regex("[a-z_]{1,8}", fullmatch=True).filter(lambda name: name not in ("kind", "sha256")),
                st.text(st.characters(exclude_categories=["Cs"])),
            ),
            fingerprint=st.sampled_from(["", "ab" * 32]),
        ),
    )
)
def test_configuration_survives_its_file(config: SignerConfig) -> None:
    """A configuration that is written and read is the same one, whatever its texts hold."""
    assert parse_signer_config(format_signer_config(config).encode()) == config


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('ca_id = "32473.1"', "", "ca_id is missing"),
        ('ca_id = "32473.1"', "ca_id = 7", "ca_id is of the wrong type"),
        ('ca_id = "32473.1"', 'ca_id = "x"', "'x'"),
        ('"plants-07"', '"plants-99"', "there are plants-04"),
        ('"sha256"', '"md5"', "no tree hash"),
        ('"ml-dsa-44"', '"rsa"', "no signature algorithm"),
        ("highest_log = 65535", "highest_log = 0", "it must be 1 to 65535"),
        ("highest_log = 65535", "highest_log = true", "highest_log is of the wrong type"),
        ("entry_types = [0, 1]", "entry_types = [65536]", "entry_types must be a list"),
        ("extension_types = []", "", "extension_types must be a list"),
        ("counter = false", 'counter = "no"', "counter is of the wrong type"),
        ("counter = false", "counter = false\ncuonter = true", "cuonter is no key"),
        ('path = "key.pem"', "path = 7", "key.path must be a text"),
        ("[key]", "[keys]", "[key] is missing"),
        ("[key]", "[key", "is no TOML"),
        ('sha256 = ""', 'sha256 = "AB"', "key.sha256 must be"),
        ("hash", "\udcff", "is no TOML"),
    ],
)
def test_configuration_says_what_is_wrong(old: str, new: str, says: str) -> None:
    """A wrong configuration is refused with the file, the key, and what to write in its place."""
    text = format_signer_config(CONFIG).replace(old, new, 1)
    with pytest.raises(UsageError) as caught:
        parse_signer_config(text.encode(errors="surrogateescape"), "d/signer.toml")
    assert says in caught.value.message
    assert caught.value.message.startswith("d/signer.toml")


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_made_once_and_never_again(tmp_path: Path, passphrase: bytes | None) -> None:
    """Making a signer twice gives the same key and changes no byte; another configuration there is refused."""
    folder = tmp_path / "ca" / "signer"
    public_key = create_signer(folder, CONFIG, passphrase)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"key.pem", "signer.toml"}
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert create_signer(folder, CONFIG, passphrase) == public_key
    with pytest.raises(UsageError, match="nothing was changed") as caught:
        create_signer(folder, replace(CONFIG, has_counter=True), passphrase)
    assert caught.value.reason is Reason.CONFLICT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    loaded = load_signer(folder, passphrase)
    assert loaded.key.public_key == public_key
    assert replace(loaded.config, key=CONFIG.key) == CONFIG
    assert (b"ENCRYPTED" in before[KEY_FILE]) is (passphrase is not None)


def test_crash_between_key_and_configuration_is_completed(tmp_path: Path) -> None:
    """A folder that holds a key only, as a crash leaves it, is completed with that key."""
    public_key = create_signer(tmp_path, CONFIG)
    (tmp_path / "signer.toml").unlink()
    (tmp_path / f".{KEY_FILE}.{os.getpid()}").write_bytes(b"half a ke")
    assert create_signer(tmp_path, CONFIG) == public_key
    assert load_signer(tmp_path).key.public_key == public_key


def _chmod(folder: Path) -> None:
    (folder / KEY_FILE).chmod(0o640)


def _remove(folder: Path) -> None:
    (folder / KEY_FILE).unlink()


def _other_key(folder: Path) -> None:
    (folder / KEY_FILE).write_bytes(generate_key(parse_signature_algorithm("ml-dsa-44")).encode_pem(b"secret"))


def _other_algorithm(folder: Path) -> None:
    (folder / KEY_FILE).write_bytes(generate_key(parse_signature_algorithm("ed25519")).encode_pem(b"secret"))


def _garbage(folder: Path) -> None:
    (folder / KEY_FILE).write_bytes(b"\x00")


def _other_kind(folder: Path) -> None:
    path = folder / "signer.toml"
    path.write_text(path.read_text("utf-8").replace('"file"', '"pkcs11"'), "utf-8")


def _more_options(folder: Path) -> None:
    path = folder / "signer.toml"
    path.write_text(path.read_text("utf-8").replace("path =", 'slot = "1"\npath ='), "utf-8")


def _no_configuration(folder: Path) -> None:
    (folder / "signer.toml").unlink()


@pytest.mark.parametrize(
    ("spoil", "passphrase", "says"),
    [
        (lambda _: None, b"hunter2", "cannot be read with this passphrase"),
        (lambda _: None, None, "--passphrase-file"),
        (_chmod, b"secret", "chmod 600"),
        (_remove, b"secret", "is missing"),
        (_other_key, b"secret", "is not the one"),
        (_other_algorithm, b"secret", "the key is of ed25519"),
        (_garbage, b"secret", KEY_FILE),
        (_other_kind, b"secret", "there are file"),
        (_more_options, b"secret", "exactly one option"),
        (_no_configuration, b"secret", "holds no signer"),
    ],
)
def test_wrong_key_is_refused_with_the_cure(
    tmp_path: Path, spoil: Callable[[Path], None], passphrase: bytes | None, says: str
) -> None:
    """A key that others may read, that is missing, another, or behind another passphrase is refused; no text leaks."""
    create_signer(tmp_path, CONFIG, b"secret")
    spoil(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_signer(tmp_path, passphrase)
    assert says in caught.value.message
    assert "secret" not in caught.value.message
    assert "hunter2" not in caught.value.message


def test_key_of_another_algorithm_is_not_completed(tmp_path: Path) -> None:
    """A key that lies there already, but is of another algorithm, is neither used nor replaced."""
    _other_algorithm(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o600)
    before = (tmp_path / KEY_FILE).read_bytes()
    with pytest.raises(UsageError, match="the key is of ed25519"):
        create_signer(tmp_path, CONFIG, b"secret")
    assert (tmp_path / KEY_FILE).read_bytes() == before
    assert not (tmp_path / "signer.toml").exists()


def test_passphrase_comes_from_file_or_environment(tmp_path: Path) -> None:
    """The first line of the file counts before the variable; a file that is empty, missing or open is refused."""
    file = tmp_path / "passphrase"
    file.write_bytes(b"from file\r\nsecond line\n")
    file.chmod(0o600)
    environ = {"MTC_SIGNER_PASSPHRASE": "from environment"}
    assert read_passphrase(environ, str(file)) == b"from file"
    assert read_passphrase(environ) == b"from environment"
    assert read_passphrase({}) is None
    assert read_passphrase({"MTC_SIGNER_PASSPHRASE": ""}) is None
    for change in (lambda: file.chmod(0o644), lambda: file.write_bytes(b"\n"), file.unlink):
        change()
        with pytest.raises(UsageError, match=str(file)):
            read_passphrase(environ, str(file))
        if file.exists():
            file.chmod(0o600)
    with pytest.raises(UsageError, match="cannot be read"):
        read_passphrase({}, "\0")


def test_back_end_is_a_function_and_a_line(tmp_path: Path) -> None:
    """A registered kind of key opens what signer.toml names, with its options and the passphrase as PIN."""
    key = generate_key(parse_signature_algorithm("ml-dsa-44"))
    seen: list[object] = []

    def opener(folder: Path, options: object, passphrase: bytes | None) -> Signer:
        seen.append((folder, options, passphrase))
        return key

    register_key_backend("test-token", opener)
    register_key_backend("test-token", opener)
    with pytest.raises(UsageError, match="is taken"):
        register_key_backend("file", opener)
    create_signer(tmp_path / "other", CONFIG)
    source = KeySource(kind="test-token", options={"slot": "3"})
    (tmp_path / "signer.toml").write_text(format_signer_config(replace(CONFIG, key=source)), "utf-8")
    with pytest.raises(Error, match="is not the one") as caught:
        load_signer(tmp_path, b"1234")
    named = replace(source, fingerprint=str(caught.value.facts["got"]))
    (tmp_path / "signer.toml").write_text(format_signer_config(replace(CONFIG, key=named)), "utf-8")
    assert load_signer(tmp_path, b"1234").key is key
    assert seen == [(tmp_path, {"slot": "3"}, b"1234")] * 2
    with pytest.raises(UsageError, match="its own tools"):
        create_signer(tmp_path / "third", replace(CONFIG, key=source))
