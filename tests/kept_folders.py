"""Folders as `mtc request` keeps them (docs/request.md, "What lies where"), made of certification paths."""

from pathlib import Path

from mtc.cert import CertificateChain
from mtc.tls import CertificationPath
from mtc.wire import PEMBlock, encode_pem


def deploy(folder: Path, name: str, *paths: CertificationPath, fallback: CertificationPath | None = None) -> Path:
    """Write a version and make it the current one in one step; return it. paths: of one key, of either form."""
    version = folder / "versions" / name
    version.mkdir(parents=True)
    _write_key(version, paths[0])
    for path in paths:
        _write_chain(version / ("landmark.pem" if path.is_landmark_relative else "standalone.pem"), path)
    if fallback is not None:
        classical = folder / "classical" / "versions" / name
        classical.mkdir(parents=True)
        _write_key(classical, fallback)
        _write_chain(classical / "fullchain.pem", fallback)
        (version / "classical").symlink_to(classical)
    aside = folder / ".current.new"
    aside.symlink_to(version)
    aside.replace(folder / "current")
    return version


def _write_key(folder: Path, path: CertificationPath) -> None:
    """Write a path's private key."""
    (folder / "key.pem").write_bytes(encode_pem([PEMBlock("PRIVATE KEY", path.private_key)]))


def _write_chain(file: Path, path: CertificationPath) -> None:
    """Write a path's certificates, with its properties where it has some."""
    has_some = path.trust_anchor_id is not None
    file.write_bytes(CertificateChain(path.properties if has_some else None, path.certificates).encode())
