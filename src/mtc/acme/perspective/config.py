"""`[[perspective]]` in `acme.toml`: which remote perspectives a CA asks, and by which key it knows each."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mtc.ca.sections import Section
from mtc.errors import FormatError, Reason, UsageError
from mtc.web.tls import parse_fingerprint

MAX_PERSPECTIVES = 50
"""Most remote perspectives of one CA; each is asked about every identifier."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_URL = re.compile(r"https://([a-zA-Z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/[!-~]*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectivePeer:
    """One remote perspective, as its CA knows it.

    name: as it calls itself, and in evidence. region: where it stands, in lower case, best the name of the Regional
    Internet Registry whose service region that is. url: of the agent, https, without a slash at its end. fingerprint:
    `sha256:` and the hash of its public key; nobody else is believed.
    """

    name: str
    region: str
    url: str
    fingerprint: str


def read_perspective(section: Section) -> PerspectivePeer:
    """Read one `[[perspective]]`. Raises UsageError that names the file, the key and the cure."""
    values = {key: section.text(key) for key in ("name", "region", "url", "fingerprint")}
    for key, value in values.items():
        if value is None:
            raise UsageError(
                Reason.USAGE,
                f"{section.where(key)} is missing; mtc perspective show DIR prints name, region and fingerprint",
            )
    texts = {key: str(value) for key, value in values.items()}
    for key in ("name", "region"):
        try:
            parse_name(texts[key])
        except FormatError as error:
            raise UsageError(error.reason, f"{section.where(key)}: {error.message}") from None
    if not _is_url(texts["url"]):
        raise UsageError(
            Reason.USAGE,
            f"{section.where('url')}: {texts['url'][:200]!r} is no https URL; write for example https://eu-1.example:8443",
        )
    try:
        fingerprint = parse_fingerprint(texts["fingerprint"])
    except FormatError as error:
        raise UsageError(
            error.reason, f"{section.where('fingerprint')}: {error.message}, as mtc perspective show prints it"
        ) from None
    section.finish()
    return PerspectivePeer(
        name=texts["name"], region=texts["region"].lower(), url=texts["url"].rstrip("/"), fingerprint=fingerprint
    )


def _is_url(text: str) -> bool:
    """Tell whether an agent can be at a URL."""
    try:
        port = urlsplit(text).port
    except ValueError:
        return False
    return bool(_URL.fullmatch(text)) and not set("?#") & set(text) and port != 0


def parse_name(text: str) -> str:
    """Return the name of a perspective or a region. Raises FormatError (BAD_NAME)."""
    if not _NAME.fullmatch(text):
        raise FormatError(Reason.BAD_NAME, f"{text[:80]!r} is no name here; write letters, digits, dots and dashes")
    return text


def check_peers(peers: tuple[PerspectivePeer, ...]) -> None:
    """Refuse perspectives that are not distinct: two names with one key are one perspective. Raises UsageError."""
    if len(peers) > MAX_PERSPECTIVES:
        raise UsageError(Reason.TOO_LARGE, f"a CA has at most {MAX_PERSPECTIVES} perspectives, not {len(peers)}")
    for what, values in (
        ("name", [peer.name for peer in peers]),
        ("url", [peer.url for peer in peers]),
        ("fingerprint", [peer.fingerprint for peer in peers]),
    ):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise UsageError(
                Reason.DUPLICATE, f"two perspectives have the {what} {min(twice)}; each is a machine and key of its own"
            )


def format_perspective(peer: PerspectivePeer) -> str:
    """Return the lines that name a perspective in `acme.toml`; `read_perspective` reads them."""
    return "\n".join(
        [
            "[[perspective]]",
            f'name = "{peer.name}"',
            f'region = "{peer.region}"',
            f'url = "{peer.url}"',
            f'fingerprint = "{peer.fingerprint}"',
            "",
        ]
    )
