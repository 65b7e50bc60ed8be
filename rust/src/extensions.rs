//! What a TLS client reads from a certificate's extensions. The twin of `scan_extensions` in `mtc/kernel/_python.py`.

use crate::layout::{Fault, Found, frame_extension, tlv};

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 0x20];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

type Span = (usize, usize);

#[derive(Default)]
pub struct Extensions {
    pub is_ca: Option<bool>,
    pub key_usage: Option<u32>,
    pub purposes: Option<u8>,
    pub names: Option<(Vec<Span>, Vec<Span>)>,
    pub unknown_critical: Option<Span>,
}

/// The contents of a SEQUENCE that must fill [at, end).
fn whole_sequence(data: &[u8], at: usize, end: usize) -> Found<Span> {
    let (inner, stop) = tlv(data, at, end, 0x30)?;
    if stop != end {
        return Err(Fault("trailing-data", stop));
    }
    Ok((inner, stop))
}

fn basic_constraints(data: &[u8], at: usize, end: usize) -> Found<bool> {
    let (mut inner, stop) = whole_sequence(data, at, end)?;
    let mut is_ca = false;
    if inner < stop && data[inner] == 0x01 {
        let (start, after) = tlv(data, inner, stop, 0x01)?;
        if after - start != 1 || data[start] != 0xff {
            return Err(Fault("bad-boolean", inner));
        }
        (is_ca, inner) = (true, after);
    }
    if inner < stop && is_ca {
        let (start, after) = tlv(data, inner, stop, 0x02)?;
        match &data[start..after] {
            [] => return Err(Fault("bad-integer", inner)),
            [first, ..] if *first >= 0x80 => return Err(Fault("bad-integer", inner)),
            [0x00, next, ..] if *next < 0x80 => return Err(Fault("bad-integer", inner)),
            _ => inner = after,
        }
    }
    if inner != stop {
        return Err(Fault("trailing-data", inner));
    }
    Ok(is_ca)
}

fn key_usage(data: &[u8], at: usize, end: usize) -> Found<u32> {
    let (start, stop) = tlv(data, at, end, 0x03)?;
    if stop != end {
        return Err(Fault("trailing-data", stop));
    }
    let count = stop - start;
    if !(2..=3).contains(&count) || data[start] > 7 || u32::from(data[stop - 1]) & ((1 << data[start]) - 1) != 0 {
        return Err(Fault("bad-bit-string", at));
    }
    let bits = data[start + 1..stop].iter().enumerate();
    Ok(bits.fold(0, |sum, (place, byte)| {
        sum | u32::from(byte.reverse_bits()) << (8 * place)
    }))
}

fn purposes(data: &[u8], at: usize, end: usize) -> Found<u8> {
    let (mut inner, stop) = whole_sequence(data, at, end)?;
    if inner == stop {
        return Err(Fault("bad-extension", at));
    }
    let mut flags = 0;
    while inner < stop {
        let (start, after) = tlv(data, inner, stop, 0x06)?;
        if start == after {
            return Err(Fault("bad-oid", inner));
        }
        flags |= match &data[start..after] {
            SERVER_AUTH => 1,
            CLIENT_AUTH => 2,
            ANY_PURPOSE => 4,
            _ => 8,
        };
        inner = after;
    }
    Ok(flags)
}

fn alt_names(data: &[u8], at: usize, end: usize) -> Found<(Vec<Span>, Vec<Span>)> {
    let (mut inner, stop) = whole_sequence(data, at, end)?;
    if inner == stop {
        return Err(Fault("bad-extension", at));
    }
    let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
    while inner < stop {
        let tag = data[inner];
        let (start, after) = tlv(data, inner, stop, tag)?;
        match tag {
            0x82 if !data[start..after].is_ascii() => return Err(Fault("bad-string", inner)),
            0x82 => dns_names.push((start, after)),
            0x87 if !matches!(after - start, 4 | 16) => return Err(Fault("bad-extension", inner)),
            0x87 => ip_addresses.push((start, after)),
            0xa0 | 0x81 | 0xa3 | 0xa4 | 0xa5 | 0x86 | 0x88 => {}
            _ => return Err(Fault("bad-tag", inner)),
        }
        inner = after;
    }
    Ok((dns_names, ip_addresses))
}

/// Read the Extensions contents data[at..end].
pub fn scan_extensions(data: &[u8], mut at: usize, end: usize) -> Found<Extensions> {
    let mut found = Extensions::default();
    while at < end {
        let extension = frame_extension(data, at, end)?;
        let (value, stop) = extension.value;
        match &data[extension.oid.0..extension.oid.1] {
            SUBJECT_ALT_NAME => found.names = Some(alt_names(data, value, stop)?),
            KEY_USAGE => found.key_usage = Some(key_usage(data, value, stop)?),
            EXTENDED_KEY_USAGE => found.purposes = Some(purposes(data, value, stop)?),
            BASIC_CONSTRAINTS => found.is_ca = Some(basic_constraints(data, value, stop)?),
            CERTIFICATE_POLICIES => {}
            _ if extension.critical && found.unknown_critical.is_none() => found.unknown_critical = Some(extension.oid),
            _ => {}
        }
        at = stop;
    }
    Ok(found)
}
