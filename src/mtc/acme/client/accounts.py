"""Accounts on disk: a key that is written down before a server hears of it, and where the account is.

    accounts/acme.example.com-1a2b3c4d/key.pem account.json        one folder per server, shared by all certificates

Spec: RFC 8555, "Account Management".
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mtc.acme.client.disk import PRIVATE, Disk, make_folders, remove_leftovers, replace_file
from mtc.acme.client.documents import ACMERefusal, Fields, parse_document
from mtc.acme.client.keys import DEFAULT_KEY_TYPE, AccountKey
from mtc.acme.client.protocol import ACMEClient, ExternalAccount
from mtc.errors import Error, Reason, UsageError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChoice:
    """An ACME server, and how to be its client. directory: URL. ca_file: trusts its HTTPS in place of the system's.

    contacts: URLs, such as `mailto:…`. profile: asked for in orders. account_key_type: of a key that is made.
    """

    directory: str
    ca_file: Path | None = None
    contacts: tuple[str, ...] = ()
    agrees_to_terms: bool = False
    external_account: ExternalAccount | None = None
    profile: str | None = None
    account_key_type: str = DEFAULT_KEY_TYPE


class AccountFolder:
    """The account at one server. Processes may share it: whoever makes the key first has made it for all."""

    def __init__(self, disk: Disk, root: Path, directory: str) -> None:
        """Take the folder of all accounts, and the server."""
        host = "".join(char if char.isalnum() or char in ".-" else "-" for char in urlsplit(directory).netloc)
        self.folder = root / f"{host[:100]}-{hashlib.sha256(directory.encode()).hexdigest()[:8]}"
        self._disk = disk
        self._directory = directory

    def key(self, key_type: str) -> AccountKey:
        """Return the account's key, made and durable if there was none."""
        path = self.folder / "key.pem"
        if not path.exists():
            make_folders(self._disk, self.folder, 0o700)
            # Its own name, because two processes may be here at once; the first one's key is everybody's.
            aside = path.with_name(f".key-{os.getpid()}.new")
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(aside)
            self._disk.write(aside, AccountKey.generate(key_type).encode_pem(), PRIVATE)
            with contextlib.suppress(FileExistsError):
                self._disk.hard_link(aside, path)
            self._disk.unlink(aside)
            self._disk.sync_folder(self.folder)
        return AccountKey.parse(path.read_bytes())

    def url(self) -> str | None:
        """Return where the account is, None before it was registered; what cannot be read counts as nothing."""
        return self._known()[0]

    def contacts(self) -> tuple[str, ...]:
        """Return the contacts that the server has been told."""
        return self._known()[1]

    def keep(self, url: str, contacts: tuple[str, ...]) -> None:
        """Write down where the account is."""
        document = {"format": 1, "directory": self._directory, "url": url, "contacts": list(contacts)}
        replace_file(
            self._disk, self.folder / "account.json", (json.dumps(document, indent=2) + "\n").encode(), PRIVATE
        )

    def replace_key(self, key: AccountKey) -> None:
        """Write another key down, after the server has accepted it."""
        replace_file(self._disk, self.folder / "key.pem", key.encode_pem(), PRIVATE)

    def clear(self) -> None:
        """Clear away what a crash left aside. Only for a process that is alone here."""
        remove_leftovers(self._disk, self.folder)

    def _known(self) -> tuple[str | None, tuple[str, ...]]:
        """Read what is written down."""
        try:
            fields = Fields(parse_document((self.folder / "account.json").read_bytes(), "it"), "the account")
            return fields.text("url"), fields.texts("contacts")
        except (OSError, Error):
            return None, ()


async def sign_in(client: ACMEClient, account: AccountFolder, choice: ServerChoice) -> None:
    """Register the account, or take it as it is known. Raises UsageError when the terms or a binding are missing."""
    known = account.url()
    if known is None:
        await register(client, account, choice)
        return
    client.account_url = known
    if choice.contacts and choice.contacts != account.contacts():
        await retried(client, account, choice, lambda: client.update_account(choice.contacts))
        account.keep(client.account_url, choice.contacts)


async def register(client: ACMEClient, account: AccountFolder, choice: ServerChoice) -> None:
    """Register the account of the key, which the server may know already."""
    directory = client.directory
    if directory.terms_of_service is not None and not choice.agrees_to_terms:
        raise UsageError(
            Reason.USAGE,
            f"the server has terms of service, {directory.terms_of_service}; --agree-terms says that you agree",
        )
    state = await client.register(
        contacts=choice.contacts,
        agrees_to_terms=choice.agrees_to_terms,
        external_account=choice.external_account,
    )
    if state.status != "valid":
        raise UsageError(
            Reason.UNAUTHORIZED,
            f"the account is {state.status}; move {account.folder} away to make another one",
        )
    account.keep(state.url, choice.contacts)


async def retried(
    client: ACMEClient, account: AccountFolder, choice: ServerChoice, act: Callable[[], Awaitable[_Result]]
) -> _Result:
    """Do something; once more with the account made anew where the server does not know it any more."""
    try:
        return await act()
    except ACMERefusal as error:
        if error.problem.kind != "accountDoesNotExist":
            raise
    await register(client, account, choice)
    return await act()
