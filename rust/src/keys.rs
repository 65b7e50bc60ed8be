//! Request keys: fingerprints, sorted records, and the filter that says which are certainly new.

use crate::tree::{Sha256, TreeHash};

pub const FINGERPRINT_BYTES: usize = 8;
pub const RECORD_BYTES: usize = 14;
pub type Record = [u8; RECORD_BYTES];

const BITS_PER_KEY: u64 = 23;
const PROBES: u64 = 14;
/// An odd number without pattern: 2^64 divided by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

pub fn fingerprint(key: &[u8]) -> [u8; FINGERPRINT_BYTES] {
    let hash = Sha256::digest(&[key]);
    hash[..FINGERPRINT_BYTES].try_into().expect("a hash has 32 bytes")
}

/// The sorted records of keys with consecutive indices; an empty key has none.
pub fn records(keys: &[&[u8]], first: u64) -> Vec<u8> {
    let mut records: Vec<Record> = keys
        .iter()
        .zip(first..)
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, index)| {
            let mut record = [0; RECORD_BYTES];
            record[..FINGERPRINT_BYTES].copy_from_slice(&fingerprint(key));
            record[FINGERPRINT_BYTES..].copy_from_slice(&index.to_be_bytes()[2..]);
            record
        })
        .collect();
    records.sort_unstable();
    records.concat()
}

/// The records of a row, sorted. Sorted stretches one after the other are merged.
pub fn sort(row: &[u8]) -> Vec<u8> {
    let (records, _) = row.as_chunks::<RECORD_BYTES>();
    let mut records = records.to_vec();
    records.sort();
    records.concat()
}

/// How many bytes a filter for so many keys has: a multiple of eight.
pub fn filter_bytes(capacity: u64) -> usize {
    usize::try_from((capacity * BITS_PER_KEY).div_ceil(64).max(1) * 8).expect("a filter fits into memory")
}

/// The bits that stand for a fingerprint in a filter of so many bits.
fn probes(fingerprint: [u8; FINGERPRINT_BYTES], bits: u64) -> impl Iterator<Item = (usize, u8)> {
    let first = u64::from_be_bytes(fingerprint);
    let step = first.wrapping_mul(MIX).rotate_left(32) | 1;
    (0..PROBES).map(move |number| {
        let spread = first.wrapping_add(number.wrapping_mul(step));
        let place = (u128::from(spread) * u128::from(bits)) >> 64;
        ((place >> 3) as usize, 1 << (place & 7))
    })
}

pub fn add(filter: &mut [u8], records: &[u8]) {
    let bits = 8 * filter.len() as u64;
    for record in records.as_chunks::<RECORD_BYTES>().0 {
        let fingerprint = record[..FINGERPRINT_BYTES]
            .try_into()
            .expect("a record begins with one");
        for (byte, bit) in probes(fingerprint, bits) {
            filter[byte] |= bit;
        }
    }
}

/// The positions in a row of fingerprints of those that may have been added.
pub fn contains(filter: &[u8], row: &[u8]) -> Vec<usize> {
    let bits = 8 * filter.len() as u64;
    row.as_chunks::<FINGERPRINT_BYTES>()
        .0
        .iter()
        .enumerate()
        .filter(|(_, fingerprint)| probes(**fingerprint, bits).all(|(byte, bit)| filter[byte] & bit != 0))
        .map(|(position, _)| position)
        .collect()
}
