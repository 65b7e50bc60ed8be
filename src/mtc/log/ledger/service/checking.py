"""Reading a whole ledger, to find what is damaged, missing, or does not fit."""

from collections.abc import AsyncIterator

from mtc.errors import Error, FormatError, Reason
from mtc.kernel import RECORD_BYTES, Kernel
from mtc.log.ledger.machine import slice_bucket
from mtc.log.ledger.pages import KeyTable, Manifest, Page, Run, page_key, table_key
from mtc.log.ledger.service.objects import LedgerObjects


async def find_faults(objects: LedgerObjects, manifest: Manifest, kernel: Kernel) -> AsyncIterator[Error]:
    """Read all that is sealed, and yield an error for each object that is damaged, missing, or does not fit.

    That every request key is in the index, and nothing else, is compared by number and by sum for each run, so that
    memory stays small: one page and one bucket.
    """
    wanted = dict.fromkeys(manifest.runs, (0, 0))
    for span in manifest.pages(manifest.start, manifest.end):
        try:
            page = Page.parse(await objects.read(page_key(objects.log_number, *span)))
            rounds = page.rounds()
            ends = [span[0], *(round_.new_size for round_ in rounds)]
            if ends[-1] != span[1] or [round_.old_size for round_ in rounds] != ends[:-1]:
                yield _misfit(page_key(objects.log_number, *span), "rounds that do not fill it")
        except Error as error:
            yield error
        if span[0] < manifest.keys_from:
            continue
        key = table_key(objects.log_number, *span)
        try:
            table = KeyTable.parse(await objects.read(key))
        except Error as error:
            yield error
            continue
        records = kernel.key_records(table.keys_of(*span), span[0])
        run = next((run for run in manifest.runs if run.start <= span[0] and span[1] <= run.end), None)
        if run is not None:
            count, total = wanted[run]
            wanted[run] = count + len(records) // RECORD_BYTES, total + _sum(records)
        elif records:
            yield _misfit(key, "keys that no run covers")
    for run, (count, total) in wanted.items():
        async for fault in _faults_of_run(objects, manifest, kernel, run, count, total):
            yield fault


async def _faults_of_run(  # noqa: PLR0913 - a run and what is expected of it
    objects: LedgerObjects, manifest: Manifest, kernel: Kernel, run: Run, count: int, total: int
) -> AsyncIterator[Error]:
    """Yield what is wrong with a run that should have `count` records whose sum is `total`."""
    number = objects.log_number
    try:
        key_filter = kernel.parse_key_filter(await objects.read(run.filter_key(number)))
    except Error as error:
        yield error
        return
    least = manifest.keys_from.to_bytes(6, "big")
    is_whole = True
    for bucket in range(1 << run.bucket_bits):
        key = run.bucket_key(number, bucket)
        try:
            row = await objects.read(key)
        except Error as error:
            yield error
            is_whole = False
            continue
        if row != slice_bucket(kernel.sort_key_records(row), bucket, run.bucket_bits):
            yield _misfit(key, "records out of order")
        records = [row[at : at + RECORD_BYTES] for at in range(0, len(row), RECORD_BYTES)]
        if len(key_filter.contains_many(b"".join([record[:8] for record in records]))) != len(records):
            yield _misfit(run.filter_key(number), f"no trace of some keys of {key}")
        live = [record for record in records if record[8:] >= least]
        count, total = count - len(live), total - _sum(b"".join(live))
    if is_whole and (count or total):
        yield _misfit(run.bucket_key(number, 0), "not the keys of its pages")


def _sum(records: bytes) -> int:
    """Return the sum of a row of records, as integers."""
    return sum(int.from_bytes(records[at : at + RECORD_BYTES], "big") for at in range(0, len(records), RECORD_BYTES))


def _misfit(key: str, what: str) -> Error:
    """Make the error for an object that is whole and does not fit the others."""
    return FormatError(Reason.DAMAGED, f"{key} holds {what}; rebuild the index of the ledger", key=key)
