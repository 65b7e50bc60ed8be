"""The numbers of a sequencer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLimits:
    """Numbers of a sequencer.

    max_entries, max_bytes: of one round, so that a staged round and a request to the signer stay small. max_pool:
    entries that may wait; more are refused until the next round. pause_s: steady seconds without a round after which
    cosigners are asked for their views again. needs_view: refuse to sign when none answers.

    may_run_ahead: go on to the next round without the quorum of the last one, which then is owed; without, nothing
    newer is signed. max_owed_rounds: so many may be owed. quorum_wait_s: how long a requester waits for the quorum
    before it is told that there is none, and after which a log that waits for it takes no new entries. owed_retry_s:
    pause between two questions to the cosigners of a log that is idle and owes.
    """

    max_entries: int = 50_000
    max_bytes: int = 64 << 20
    max_pool: int = 500_000
    pause_s: float = 600.0
    needs_view: bool = False
    may_run_ahead: bool = False
    max_owed_rounds: int = 64
    quorum_wait_s: float = 300.0
    owed_retry_s: float = 5.0
