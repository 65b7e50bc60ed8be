"""Trust store documents, good ones and every way to break one."""

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

from tests.makers import make_key

from mtc.errors import Reason

Document = dict[str, Any]
Edit = Callable[[Any], None]

CA, WITNESS, MIRROR = "32473.1", "32473.9.1", "32473.9.2"


@lru_cache
def key_text(algorithm: str, seed: int = 1) -> str:
    """Return the base64 of a public key."""
    return base64.b64encode(make_key(algorithm, seed).public_key).decode()


def issue_document() -> Document:
    """Return the example of the issue, with keys and a hash in the gaps."""
    keys = [(CA, 1), (WITNESS, 2), (MIRROR, 3)]
    return {
        "version": 1,
        "cas": [
            {
                "id": CA,
                "draft": "plants-07",
                "hash": "sha256",
                "cosigners": [
                    {"id": name, "algorithm": "ml-dsa-44", "public_key": key_text("ml-dsa-44", seed)}
                    for name, seed in keys
                ],
                "policy": {"require": [CA], "quorum": {"of": [WITNESS, MIRROR], "at_least": 1}},
                "trusted_subtrees": [{"log": 1, "start": 0, "end": 1024, "hash": "ab" * 32}],
                "revoked": [[0, 281474976710656]],
            }
        ],
    }


def least_document() -> Document:
    """Return the shortest document that trusts somebody."""
    cosigner = {"id": CA, "algorithm": "ed25519", "public_key": key_text("ed25519")}
    return {"version": 1, "cas": [{"id": CA, "cosigners": [cosigner], "policy": {"require": [CA]}}]}


def dump(document: object) -> bytes:
    """Return a document as bytes."""
    return json.dumps(document).encode()


def edited(edit: Edit, document: Document | None = None) -> Document:
    """Return a document after an edit."""
    document = deepcopy(document or issue_document())
    edit(document)
    return document


def at(*path: str | int, **members: Any) -> Edit:  # noqa: ANN401 - JSON
    """Return the edit that sets members of the object at a path; `...` removes one."""

    def edit(document: Any) -> None:  # noqa: ANN401 - JSON
        for step in path:
            document = document[step]
        for name, value in members.items():
            if value is ...:
                del document[name]
            else:
                document[name] = value

    return edit


def both(first: Edit, second: Edit) -> Edit:
    """Return the edit that makes two edits."""

    def edit(document: Any) -> None:  # noqa: ANN401 - JSON
        first(document)
        second(document)

    return edit


FIRST = ("cas", 0)
COSIGNER = ("cas", 0, "cosigners", 1)
POLICY = ("cas", 0, "policy")
QUORUM = (*POLICY, "quorum")
SUBTREE = ("cas", 0, "trusted_subtrees", 0)

FAULT = Reason.BAD_DOCUMENT

GOOD: dict[str, Edit] = {
    "as it is": lambda _: None,
    "no CAs": at(cas=[]),
    "defaults": at(*FIRST, draft=..., hash=..., trusted_subtrees=..., revoked=...),
    "every draft": at(*FIRST, draft="plants-04"),
    "SM3": at(*FIRST, hash="sm3"),
    "empty lists": at(*FIRST, trusted_subtrees=[], revoked=[]),
    "no quorum": at(*POLICY, quorum=...),
    "a quorum of nobody beside require": at(*QUORUM, at_least=0),
    "an empty quorum beside require": at(*POLICY, quorum={"of": [], "at_least": 0}),
    "a quorum alone": at(*POLICY, require=...),
    "a quorum and an empty require": at(*POLICY, require=[]),
    "a cosigner in both": at(*QUORUM, of=[CA, WITNESS]),
    "usable": at(*COSIGNER, state="usable"),
    "removed": at(*COSIGNER, state="removed"),
    "frozen": at(*COSIGNER, state="frozen", tree_size=1000),
    "frozen at nothing": at(*COSIGNER, state="frozen", tree_size=0),
    "frozen in log 3": at(*COSIGNER, state="frozen", tree_size=2**48 - 1, log=3),
    "a landmark": at(*SUBTREE, landmark=0, expiry=0),
    "a landmark far away": at(*SUBTREE, landmark=2**48 - 1, expiry=2**63 - 1),
    "the last log": at(*SUBTREE, log=65535),
    "the largest subtree": at(*SUBTREE, end=2**48 - 1),
    "an empty subtree": at(*SUBTREE, start=7, end=7),
    "hex in capitals": at(*SUBTREE, hash="AB" * 32),
    "an empty range": at(*FIRST, revoked=[[5, 5], [0, 0], [2**64, 2**64]]),
    "everything revoked": at(*FIRST, revoked=[[0, 2**64]]),
    "overlapping ranges": at(*FIRST, revoked=[[5, 9], [0, 7], [9, 9]]),
    "an ID of one component": at(*FIRST, id="0"),
    "large components": at(*FIRST, id="32473." + "9" * 60),
}
"""Edits of the example that leave it good."""

BAD: dict[str, tuple[Edit, str, Reason]] = {
    "no version": (at(version=...), "version", FAULT),
    "version 2": (at(version=2), "version", FAULT),
    "version true": (at(version=True), "version", FAULT),
    "version as text": (at(version="1"), "version", FAULT),
    "version null": (at(version=None), "version", FAULT),
    "no cas": (at(cas=...), "cas", FAULT),
    "cas null": (at(cas=None), "cas must be an array", FAULT),
    "cas an object": (at(cas={}), "cas must be an array", FAULT),
    "a CA that is text": (at(cas=["32473.1"]), "cas[0] must be an object", FAULT),
    "an unknown top member": (at(comment="x"), "'comment'", FAULT),
    "a mistyped member": (at(*FIRST, polcy={}), "cas[0] has an unknown member 'polcy'", FAULT),
    "no id": (at(*FIRST, id=...), "cas[0] has no 'id'", FAULT),
    "id a number": (at(*FIRST, id=32473), "cas[0].id", FAULT),
    "id empty": (at(*FIRST, id=""), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "id with a leading zero": (at(*FIRST, id="32473.01"), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "id as a whole OID name": (at(*FIRST, id="oid/1.3.6.1.4.1.32473.1"), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "id with a blank": (at(*FIRST, id=" 32473.1"), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "id with a foreign digit": (at(*FIRST, id="32473.\u0661"), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "an unknown draft": (at(*FIRST, draft="plants-08"), "cas[0].draft", Reason.BAD_DOCUMENT),
    "draft null": (at(*FIRST, draft=None), "cas[0].draft", FAULT),
    "draft a number": (at(*FIRST, draft=7), "cas[0].draft", FAULT),
    "an unknown hash": (at(*FIRST, hash="sha512"), "cas[0].hash", Reason.UNKNOWN_ALGORITHM),
    "no cosigners": (at(*FIRST, cosigners=...), "cas[0] has no 'cosigners'", FAULT),
    "cosigners empty": (at(*FIRST, cosigners=[]), "cas[0]", Reason.BAD_POLICY),
    "cosigners an object": (at(*FIRST, cosigners={}), "cas[0].cosigners must be an array", FAULT),
    "cosigner without key": (
        at(*COSIGNER, public_key=...),
        "cas[0].cosigners[1] has no 'public_key'",
        FAULT,
    ),
    "cosigner without algorithm": (at(*COSIGNER, algorithm=...), "cas[0].cosigners[1] has no", FAULT),
    "cosigner without id": (at(*COSIGNER, id=...), "cas[0].cosigners[1] has no 'id'", FAULT),
    "algorithm null": (at(*COSIGNER, algorithm=None), "cas[0].cosigners[1].algorithm", FAULT),
    "key null": (at(*COSIGNER, public_key=None), "cas[0].cosigners[1].public_key", FAULT),
    "an unknown state": (at(*COSIGNER, state="asleep"), "cas[0].cosigners[1].state", FAULT),
    "state a list": (at(*COSIGNER, state=["usable"]), "cas[0].cosigners[1].state", FAULT),
    "frozen without size": (
        at(*COSIGNER, state="frozen"),
        "cas[0].cosigners[1] has no 'tree_size'",
        FAULT,
    ),
    "a size without frozen": (at(*COSIGNER, tree_size=5), "cas[0].cosigners[1] has an unknown", FAULT),
    "a log without frozen": (at(*COSIGNER, state="removed", log=5), "cas[0].cosigners[1]", FAULT),
    "frozen beyond 48 bits": (
        at(*COSIGNER, state="frozen", tree_size=2**48),
        "cas[0].cosigners[1].tree_size",
        FAULT,
    ),
    "frozen in log 0": (at(*COSIGNER, state="frozen", tree_size=1, log=0), "cosigners[1].log", FAULT),
    "frozen at true": (at(*COSIGNER, state="frozen", tree_size=True), "cosigners[1].tree_size", FAULT),
    "an unknown cosigner member": (at(*COSIGNER, key="x"), "cas[0].cosigners[1] has an unknown", FAULT),
    "no policy": (at(*FIRST, policy=...), "cas[0] has no 'policy'", FAULT),
    "policy a list": (at(*FIRST, policy=[CA]), "cas[0].policy must be an object", FAULT),
    "policy empty": (at(*FIRST, policy={}), "cas[0].policy", Reason.BAD_POLICY),
    "policy of nobody": (at(*FIRST, policy={"require": []}), "cas[0].policy", Reason.BAD_POLICY),
    "a quorum of nobody": (
        at(*FIRST, policy={"quorum": {"of": [CA], "at_least": 0}}),
        "cas[0].policy",
        Reason.BAD_POLICY,
    ),
    "require text": (at(*POLICY, require=CA), "cas[0].policy.require must be an array", FAULT),
    "require a number": (at(*POLICY, require=[CA, 5]), "cas[0].policy.require[1]", FAULT),
    "require no ID": (at(*POLICY, require=[CA, "x"]), "cas[0].policy.require[1]", Reason.BAD_TRUST_ANCHOR_ID),
    "require twice": (at(*POLICY, require=[CA, CA]), "cas[0].policy", Reason.BAD_POLICY),
    "of twice": (at(*QUORUM, of=[WITNESS, WITNESS]), "cas[0].policy", Reason.BAD_POLICY),
    "quorum null": (at(*POLICY, quorum=None), "cas[0].policy.quorum must be an object", FAULT),
    "quorum without of": (at(*QUORUM, of=...), "cas[0].policy.quorum has no 'of'", FAULT),
    "quorum without at_least": (
        at(*QUORUM, at_least=...),
        "cas[0].policy.quorum has no 'at_least'",
        FAULT,
    ),
    "quorum of true": (at(*QUORUM, at_least=True), "cas[0].policy.quorum.at_least", FAULT),
    "quorum below 0": (at(*QUORUM, at_least=-1), "cas[0].policy.quorum.at_least", FAULT),
    "quorum of 1.5": (at(*QUORUM, at_least=1.5), "cas[0].policy.quorum.at_least", FAULT),
    "an unknown quorum member": (at(*QUORUM, any=1), "cas[0].policy.quorum has an unknown", FAULT),
    "an unknown policy member": (at(*POLICY, requires=[CA]), "cas[0].policy has an unknown", FAULT),
    "subtrees null": (at(*FIRST, trusted_subtrees=None), "cas[0].trusted_subtrees", FAULT),
    "subtree a list": (at(*FIRST, trusted_subtrees=[[1, 0, 8]]), "cas[0].trusted_subtrees[0]", FAULT),
    "subtree of log 0": (at(*SUBTREE, log=0), "cas[0].trusted_subtrees[0].log", FAULT),
    "subtree of log 65536": (at(*SUBTREE, log=65536), "cas[0].trusted_subtrees[0].log", FAULT),
    "subtree of log true": (at(*SUBTREE, log=True), "cas[0].trusted_subtrees[0].log", FAULT),
    "subtree of no log": (at(*SUBTREE, log=...), "cas[0].trusted_subtrees[0] has no 'log'", FAULT),
    "start below 0": (at(*SUBTREE, start=-1), "cas[0].trusted_subtrees[0].start", FAULT),
    "start as text": (at(*SUBTREE, start="0"), "cas[0].trusted_subtrees[0].start", FAULT),
    "no start": (at(*SUBTREE, start=...), "cas[0].trusted_subtrees[0] has no 'start'", FAULT),
    "end beyond 48 bits": (at(*SUBTREE, end=2**48), "cas[0].trusted_subtrees[0].end", FAULT),
    "no end": (at(*SUBTREE, end=...), "cas[0].trusted_subtrees[0] has no 'end'", FAULT),
    "no hash": (at(*SUBTREE, hash=...), "cas[0].trusted_subtrees[0] has no 'hash'", FAULT),
    "hash empty": (at(*SUBTREE, hash=""), "cas[0].trusted_subtrees[0].hash", FAULT),
    "hash no hex": (at(*SUBTREE, hash="zz" * 32), "cas[0].trusted_subtrees[0].hash", FAULT),
    "hash of odd length": (at(*SUBTREE, hash="a" * 63), "cas[0].trusted_subtrees[0].hash", FAULT),
    "hash with blanks": (at(*SUBTREE, hash="ab " * 32), "cas[0].trusted_subtrees[0].hash", FAULT),
    "hash a number": (at(*SUBTREE, hash=5), "cas[0].trusted_subtrees[0].hash", FAULT),
    "landmark null": (at(*SUBTREE, landmark=None), "cas[0].trusted_subtrees[0].landmark", FAULT),
    "landmark below 0": (at(*SUBTREE, landmark=-1), "cas[0].trusted_subtrees[0].landmark", FAULT),
    "expiry as text": (at(*SUBTREE, expiry="2026"), "cas[0].trusted_subtrees[0].expiry", FAULT),
    "expiry beyond 63 bits": (at(*SUBTREE, expiry=2**63), "cas[0].trusted_subtrees[0].expiry", FAULT),
    "an unknown subtree member": (
        at(*SUBTREE, size=8),
        "cas[0].trusted_subtrees[0] has an unknown",
        FAULT,
    ),
    "revoked null": (at(*FIRST, revoked=None), "cas[0].revoked must be an array", FAULT),
    "a range of one": (at(*FIRST, revoked=[[1]]), "cas[0].revoked[0] must be a pair", FAULT),
    "a range of three": (
        at(*FIRST, revoked=[[0, 1], [1, 2, 3]]),
        "cas[0].revoked[1] must be a pair",
        FAULT,
    ),
    "a range that is a number": (at(*FIRST, revoked=[5]), "cas[0].revoked[0] must be a pair", FAULT),
    "a range below 0": (at(*FIRST, revoked=[[-1, 5]]), "cas[0].revoked[0][0]", FAULT),
    "a range beyond 2^64": (at(*FIRST, revoked=[[0, 2**64 + 1]]), "cas[0].revoked[0][1]", FAULT),
    "a range of true": (at(*FIRST, revoked=[[False, True]]), "cas[0].revoked[0][0]", FAULT),
    "a range of text": (at(*FIRST, revoked=[["0", "5"]]), "cas[0].revoked[0][0]", FAULT),
    "a range of 0.5": (at(*FIRST, revoked=[[0, 0.5]]), "cas[0].revoked[0][1]", FAULT),
}
"""Edits that break the example: what the message names, and the reason."""

BEYOND_SCHEMA: dict[str, tuple[Edit, str, Reason]] = {
    "version 1.0, an integer to a schema": (at(version=1.0), "version", FAULT),
    "log 1.0, an integer to a schema": (at(*SUBTREE, log=1.0), "trusted_subtrees[0].log", FAULT),
    "an ID that ends in a line feed, which $ lets pass in Python": (
        at(*FIRST, id="32473.1\n"),
        "cas[0].id",
        Reason.BAD_TRUST_ANCHOR_ID,
    ),
    "an ID of more than 255 bytes": (at(*FIRST, id=".".join(["9"] * 256)), "cas[0].id", Reason.BAD_TRUST_ANCHOR_ID),
    "an ID of more bytes than its draft allows": (
        at(*FIRST, id=".".join(["9"] * 33)),
        "cas[0]",
        Reason.BAD_TRUST_ANCHOR_ID,
    ),
    "an unknown algorithm; the registry is open": (
        at(*COSIGNER, algorithm="rsa"),
        "cas[0].cosigners[1].algorithm",
        Reason.UNKNOWN_ALGORITHM,
    ),
    "a key of another algorithm": (
        at(*COSIGNER, algorithm="ed25519"),
        "cas[0].cosigners[1]",
        Reason.ALGORITHM_MISMATCH,
    ),
    "a key that is no base64": (
        at(*COSIGNER, public_key="%%%"),
        "cas[0].cosigners[1].public_key",
        Reason.BAD_BASE64,
    ),
    "a key that is no key": (at(*COSIGNER, public_key="AAAA"), "cas[0].cosigners[1]", Reason.BAD_KEY),
    "a key with bytes behind it": (
        at(*COSIGNER, public_key=base64.b64encode(make_key("ml-dsa-44").public_key + b"\x00").decode()),
        "cas[0].cosigners[1]",
        Reason.BAD_KEY,
    ),
    "a cosigner twice": (at(*COSIGNER, id=CA), "cas[0]", Reason.DUPLICATE),
    "a CA twice": (lambda document: document["cas"].append(document["cas"][0]), "cas", Reason.DUPLICATE),
    "a CA twice in two drafts": (
        lambda document: document["cas"].append({**document["cas"][0], "draft": "plants-05"}),
        "cas",
        Reason.DUPLICATE,
    ),
    "require of somebody unknown": (at(*POLICY, require=[CA, "1.2"]), "cas[0]", Reason.BAD_POLICY),
    "a quorum of somebody unknown": (at(*QUORUM, of=[WITNESS, "1.2"]), "cas[0]", Reason.BAD_POLICY),
    "a quorum of more than there are": (at(*QUORUM, at_least=3), "cas[0].policy", Reason.BAD_POLICY),
    "a quorum beyond any number": (
        at(*QUORUM, at_least=2**70),
        "cas[0].policy.quorum.at_least",
        FAULT,
    ),
    "an interval that is no subtree": (at(*SUBTREE, start=1), "cas[0].trusted_subtrees[0]", Reason.BAD_SUBTREE),
    "a subtree that runs backwards": (at(*SUBTREE, start=2048), "cas[0].trusted_subtrees[0]", Reason.BAD_SUBTREE),
    "an empty subtree in an old draft": (
        both(at(*FIRST, draft="plants-05"), at(*SUBTREE, start=8, end=8)),
        "cas[0]",
        Reason.BAD_SUBTREE,
    ),
    "a hash of another size": (at(*SUBTREE, hash="ab" * 31), "cas[0]", Reason.BAD_HASH_SIZE),
    "a subtree with two hashes": (
        lambda document: document["cas"][0]["trusted_subtrees"].append(
            {"log": 1, "start": 0, "end": 1024, "hash": "cd" * 32}
        ),
        "cas[0]",
        Reason.DUPLICATE,
    ),
    "a range that runs backwards": (at(*FIRST, revoked=[[5, 4]]), "cas[0].revoked[0]", FAULT),
}
"""What a schema cannot see: the parser refuses it all the same."""
