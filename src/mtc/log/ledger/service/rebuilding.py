"""Making the index of a ledger anew: pages and tables of keys are the truth, runs and manifest follow from them."""

import asyncio
from array import array
from itertools import pairwise

from mtc.kernel import Kernel
from mtc.log.ledger.formats import ledger_prefix, protect
from mtc.log.ledger.machine import LedgerLimits, chain_pages, index_keys
from mtc.log.ledger.pages import (
    KeyTable,
    Manifest,
    Run,
    manifest_key,
    manifest_prefix,
    page_key,
    parse_interval,
    table_key,
)
from mtc.log.ledger.service.objects import LedgerObjects


async def rebuild_index(objects: LedgerObjects, limits: LedgerLimits, kernel: Kernel) -> Manifest:
    """Write all runs and the manifest again from the pages and tables that are there. Nobody else may write.

    Reads every table of keys. Crash meaning: the manifest before stays true until the new one is put. Raises
    FormatError for a table that is damaged, ConflictError where pages or tables are missing; then nothing is changed.
    """
    store, number = objects.store, objects.log_number
    spans = [parse_interval(key) for key in await store.list_keys(f"{ledger_prefix(number)}page/")]
    tables = [parse_interval(key)[0] for key in await store.list_keys(f"{ledger_prefix(number)}keys/")]
    sizes, keys_from = chain_pages(number, spans, tables)
    pages = [(start, end) for start, end in pairwise(sizes) if start >= keys_from]
    runs: list[Run] = []
    old_runs = await store.list_keys(f"{ledger_prefix(number)}run/")
    for start, end in pages:
        await objects.read(page_key(number, start, end))
        keys = KeyTable.parse(await objects.read(table_key(number, start, end))).keys_of(start, end)
        run, _, made = await asyncio.to_thread(index_keys, kernel, limits, number, start, end, keys)
        if run.count:
            await objects.write(made)
            runs.append(run)
    old = await store.list_keys(manifest_prefix(number))
    generation = int(old[-1].rpartition("/")[2]) + 1 if old else 1
    begin = sizes[0] if sizes else 0
    manifest = Manifest(generation, begin, array("Q", sizes[1:]), tuple(runs), keys_from, (), keys_from)
    key = manifest_key(number, generation)
    await store.put({key: protect(key, manifest.encode())})
    live = {name for run in runs for name in run.keys(number)}
    await store.discard([*old, *(name for name in old_runs if name not in live)])
    return manifest
