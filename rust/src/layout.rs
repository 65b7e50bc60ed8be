//! Where the parts of a certificate lie. The twin of `mtc/kernel/_layout.py`: same checks, same order, same offsets.

/// A fault: the value of a `Reason` and the byte offset at which it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub &'static str, pub usize);

pub type Found<T> = Result<T, Fault>;

pub const MAX_CERTIFICATE_BYTES: usize = 1 << 24;
const MAX_EXTENSIONS: usize = 256;
const FEW_EXTENSIONS: usize = 16;
const MAX_OID_BYTES: usize = 512;

/// Offsets into the DER of a certificate; every pair is half-open.
pub struct Layout {
    pub tbs_end: usize,
    pub fields_start: usize,
    pub version_end: usize,
    pub serial: (usize, usize),
    pub signature: (usize, usize),
    pub issuer: (usize, usize),
    pub not_before: i64,
    pub not_after: i64,
    pub spki: (usize, usize),
    pub spki_algorithm: (usize, usize),
    pub extensions: (usize, usize),
    pub outer_signature: (usize, usize),
    pub value: (usize, usize),
}

/// The contents of the TLV at `at`, which must have `tag` and end by `end`.
pub fn tlv(data: &[u8], at: usize, end: usize, tag: u8) -> Found<(usize, usize)> {
    if at + 2 > end {
        return Err(Fault("truncated", at));
    }
    if data[at] != tag {
        return Err(Fault("bad-tag", at));
    }
    let mut length = data[at + 1] as usize;
    let mut start = at + 2;
    if length >= 0x80 {
        let count = length & 0x7f;
        if count == 0 || count > 4 {
            return Err(Fault("bad-length", at));
        }
        start += count;
        if start > end {
            return Err(Fault("truncated", at));
        }
        length = data[at + 2..start]
            .iter()
            .fold(0, |sum, byte| sum << 8 | *byte as usize);
        if length < 0x80 || length >> (8 * (count - 1)) == 0 {
            return Err(Fault("bad-length", at));
        }
    }
    // Not start + length > end: where usize has 32 bits, the sum may wrap.
    if length > end - start {
        return Err(Fault("truncated", at));
    }
    Ok((start, start + length))
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (years count from March inside).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = (month + 9) % 12;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * shifted + 2) / 5 + day
        - 1
        - 719_468
}

/// POSIX seconds of the UTCTime or GeneralizedTime at `at`, and the end of its TLV.
fn posix_time(data: &[u8], at: usize, end: usize) -> Found<(i64, usize)> {
    if at + 2 > end {
        return Err(Fault("truncated", at));
    }
    let width = match data[at] {
        0x17 => 13,
        0x18 => 15,
        _ => return Err(Fault("bad-tag", at)),
    };
    let (start, stop) = tlv(data, at, end, data[at])?;
    let bad = Err(Fault("bad-time", at));
    if stop - start != width || data[stop - 1] != b'Z' || !data[start..stop - 1].iter().all(u8::is_ascii_digit) {
        return bad;
    }
    let pair = |from: usize| i64::from(data[from] - b'0') * 10 + i64::from(data[from + 1] - b'0');
    let tail = stop - 11;
    let year = if width == 13 {
        let short = pair(start);
        if short >= 50 { 1900 + short } else { 2000 + short }
    } else {
        pair(start) * 100 + pair(start + 2)
    };
    let (month, day) = (pair(tail), pair(tail + 2));
    let (hour, minute, second) = (pair(tail + 4), pair(tail + 6), pair(tail + 8));
    if second > 59 || minute > 59 || hour > 23 || !(1..=12).contains(&month) || year == 0 {
        return bad;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=days).contains(&day) {
        return bad;
    }
    Ok((
        days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second,
        stop,
    ))
}

/// Refuse bit string contents without the count of unused bits, or with unused bits that are not zero.
fn check_bit_string(bits: &[u8], at: usize) -> Found<()> {
    match bits {
        [0, ..] => Ok(()),
        [unused @ 1..=7, .., last] if last & ((1 << unused) - 1) == 0 => Ok(()),
        _ => Err(Fault("bad-bit-string", at)),
    }
}

/// Refuse object identifier contents that are too long, empty, cut off or not minimal; `at` goes into the fault.
fn check_oid(oid: &[u8], at: usize) -> Found<()> {
    if oid.len() > MAX_OID_BYTES {
        return Err(Fault("too-large", at));
    }
    match oid.last() {
        Some(last) if last & 0x80 == 0 && oid[0] != 0x80 => {}
        _ => return Err(Fault("bad-oid", at)),
    }
    if oid.windows(2).any(|pair| pair[1] == 0x80 && pair[0] & 0x80 == 0) {
        return Err(Fault("bad-oid", at));
    }
    Ok(())
}

/// One Extension: its OID and value, and whether it is critical. It ends where its value does.
pub struct Extension {
    pub oid: (usize, usize),
    pub critical: bool,
    pub value: (usize, usize),
}

pub fn frame_extension(data: &[u8], at: usize, end: usize) -> Found<Extension> {
    let (at, stop) = tlv(data, at, end, 0x30)?;
    let oid = tlv(data, at, stop, 0x06)?;
    check_oid(&data[oid.0..oid.1], at)?;
    let mut at = oid.1;
    let critical = at < stop && data[at] == 0x01;
    if critical {
        let (start, next) = tlv(data, at, stop, 0x01)?;
        if next - start != 1 || data[start] != 0xff {
            return Err(Fault("bad-boolean", at));
        }
        at = next;
    }
    let value = tlv(data, at, stop, 0x04)?;
    if value.1 != stop {
        return Err(Fault("trailing-data", value.1));
    }
    Ok(Extension { oid, critical, value })
}

fn check_extensions(data: &[u8], start: usize, end: usize) -> Found<()> {
    if start == end {
        return Err(Fault("bad-extension", start));
    }
    // A certificate has a handful; only more than that are worth an allocation.
    let mut first = [(0, 0); FEW_EXTENSIONS];
    let mut more: Vec<(usize, usize)> = Vec::new();
    let (mut count, mut at) = (0, start);
    while at < end {
        let extension = frame_extension(data, at, end)?;
        let oid = &data[extension.oid.0..extension.oid.1];
        let seen = first[..count.min(FEW_EXTENSIONS)].iter().chain(&more);
        if seen.into_iter().any(|other| &data[other.0..other.1] == oid) {
            return Err(Fault("duplicate-extension", at));
        }
        if count == MAX_EXTENSIONS {
            return Err(Fault("too-large", at));
        }
        match first.get_mut(count) {
            Some(place) => *place = extension.oid,
            None => more.push(extension.oid),
        }
        count += 1;
        at = extension.value.1;
    }
    Ok(())
}

/// Find the parts of a certificate.
pub fn parse_layout(der: &[u8]) -> Found<Layout> {
    let size = der.len();
    if size > MAX_CERTIFICATE_BYTES {
        return Err(Fault("too-large", 0));
    }
    let (tbs_start, end) = tlv(der, 0, size, 0x30)?;
    if end != size {
        return Err(Fault("trailing-data", end));
    }
    let (fields_start, tbs_end) = tlv(der, tbs_start, end, 0x30)?;
    let (_, outer_end) = tlv(der, tbs_end, end, 0x30)?;
    let value = tlv(der, outer_end, end, 0x03)?;
    if value.1 != end {
        return Err(Fault("trailing-data", value.1));
    }

    let (mut at, mut version) = (fields_start, 0);
    if at < tbs_end && der[at] == 0xa0 {
        let (inner, stop) = tlv(der, at, tbs_end, 0xa0)?;
        let (start, inner_end) = tlv(der, inner, stop, 0x02)?;
        if inner_end - start != 1 || !(1..=2).contains(&der[start]) {
            return Err(Fault("bad-version", inner));
        }
        if inner_end != stop {
            return Err(Fault("trailing-data", inner_end));
        }
        version = der[start];
        at = stop;
    }
    let version_end = at;

    let serial = tlv(der, at, tbs_end, 0x02)?;
    match &der[serial.0..serial.1] {
        [] => return Err(Fault("bad-integer", at)),
        [0x00, next, ..] if *next < 0x80 => return Err(Fault("bad-integer", at)),
        [0xff, next, ..] if *next >= 0x80 => return Err(Fault("bad-integer", at)),
        _ => {}
    }
    let (_, issuer_start) = tlv(der, serial.1, tbs_end, 0x30)?;
    let (_, issuer_end) = tlv(der, issuer_start, tbs_end, 0x30)?;
    let (inner, subject_start) = tlv(der, issuer_end, tbs_end, 0x30)?;
    let (not_before, inner) = posix_time(der, inner, subject_start)?;
    let (not_after, inner) = posix_time(der, inner, subject_start)?;
    if inner != subject_start {
        return Err(Fault("trailing-data", inner));
    }
    let (_, spki_start) = tlv(der, subject_start, tbs_end, 0x30)?;
    let (algorithm_start, spki_end) = tlv(der, spki_start, tbs_end, 0x30)?;
    let (_, algorithm_end) = tlv(der, algorithm_start, spki_end, 0x30)?;
    let (start, inner) = tlv(der, algorithm_end, spki_end, 0x03)?;
    check_bit_string(&der[start..inner], algorithm_end)?;
    if inner != spki_end {
        return Err(Fault("trailing-data", inner));
    }

    at = spki_end;
    for tag in [0x81, 0x82] {
        if at < tbs_end && der[at] == tag {
            if version == 0 {
                return Err(Fault("bad-version", at));
            }
            let (start, stop) = tlv(der, at, tbs_end, tag)?;
            check_bit_string(&der[start..stop], at)?;
            at = stop;
        }
    }
    let mut extensions = (0, 0);
    if at < tbs_end && der[at] == 0xa3 {
        if version != 2 {
            return Err(Fault("bad-version", at));
        }
        let (inner, stop) = tlv(der, at, tbs_end, 0xa3)?;
        extensions = tlv(der, inner, stop, 0x30)?;
        if extensions.1 != stop {
            return Err(Fault("trailing-data", extensions.1));
        }
        check_extensions(der, extensions.0, extensions.1)?;
        at = stop;
    }
    if at != tbs_end {
        return Err(Fault("trailing-data", at));
    }
    Ok(Layout {
        tbs_end,
        fields_start,
        version_end,
        serial,
        signature: (serial.1, issuer_start),
        issuer: (issuer_start, issuer_end),
        not_before,
        not_after,
        spki: (spki_start, spki_end),
        spki_algorithm: (algorithm_start, algorithm_end),
        extensions,
        outer_signature: (tbs_end, outer_end),
        value,
    })
}

/// Offsets of an MTCProof's parts; every pair is half-open.
pub struct ProofLayout {
    pub extensions: (usize, usize),
    pub start: u64,
    pub end: u64,
    pub inclusion: (usize, usize),
    pub signatures_start: usize,
}

fn uint(data: &[u8]) -> u64 {
    data.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Find the parts of the MTCProof at data[at..end]; it must fill them.
pub fn parse_proof_layout(
    data: &[u8],
    at: usize,
    end: usize,
    hash_size: usize,
    signatures_width: usize,
    id_limit: usize,
) -> Found<ProofLayout> {
    let extensions_start = at;
    if at + 2 > end {
        return Err(Fault("truncated", at));
    }
    let stop = at + 2 + uint(&data[at..at + 2]) as usize;
    if stop > end {
        return Err(Fault("truncated", at));
    }
    check_entry_extensions(data, at + 2, stop)?;
    let at = stop;
    if at + 14 > end {
        return Err(Fault("truncated", at));
    }
    let inclusion_start = at + 14;
    let length = uint(&data[at + 12..inclusion_start]) as usize;
    let inclusion_end = inclusion_start + length;
    if inclusion_end > end {
        return Err(Fault("truncated", at + 12));
    }
    if !length.is_multiple_of(hash_size) {
        return Err(Fault("bad-proof-length", at + 12));
    }
    let signatures_start = inclusion_end + signatures_width;
    if signatures_start > end {
        return Err(Fault("truncated", inclusion_end));
    }
    let signatures_end = signatures_start + uint(&data[inclusion_end..signatures_start]) as usize;
    if signatures_end > end {
        return Err(Fault("truncated", inclusion_end));
    }
    if signatures_end < end {
        return Err(Fault("trailing-data", signatures_end));
    }
    check_signatures(data, signatures_start, signatures_end, id_limit)?;
    Ok(ProofLayout {
        extensions: (extensions_start, stop),
        start: uint(&data[at..at + 6]),
        end: uint(&data[at + 6..at + 12]),
        inclusion: (inclusion_start, inclusion_end),
        signatures_start,
    })
}

fn check_entry_extensions(data: &[u8], mut at: usize, end: usize) -> Found<()> {
    let mut last: i64 = -1;
    while at < end {
        if at + 4 > end {
            return Err(Fault("truncated", at));
        }
        let kind = uint(&data[at..at + 2]) as i64;
        let stop = at + 4 + uint(&data[at + 2..at + 4]) as usize;
        if stop > end {
            return Err(Fault("truncated", at));
        }
        if kind <= last {
            return Err(Fault(if kind == last { "duplicate" } else { "bad-order" }, at));
        }
        (last, at) = (kind, stop);
    }
    Ok(())
}

fn check_signatures(data: &[u8], mut at: usize, end: usize, id_limit: usize) -> Found<()> {
    let mut last: &[u8] = &[];
    while at < end {
        let count = data[at] as usize;
        let id_end = at + 1 + count;
        if id_end + 2 > end {
            return Err(Fault("truncated", at));
        }
        if count == 0 || count > id_limit {
            return Err(Fault("bad-trust-anchor-id", at));
        }
        let stop = id_end + 2 + uint(&data[id_end..id_end + 2]) as usize;
        if stop > end {
            return Err(Fault("truncated", at));
        }
        let cosigner = &data[at + 1..id_end];
        if (count, cosigner) <= (last.len(), last) {
            return Err(Fault(if cosigner == last { "duplicate" } else { "bad-order" }, at));
        }
        (last, at) = (cosigner, stop);
    }
    Ok(())
}
