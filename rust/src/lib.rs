//! The native twin of `mtc.kernel`: hash rows, proofs, and the scan of a certificate. Buffers in and out, no policy.
#![forbid(unsafe_code)]

mod extensions;
mod keys;
mod layout;
mod tree;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use layout::{Fault, Found};
use tree::{HASH_SIZE, Hash, Misfit, Sha256, Sm3, TreeHash};

/// Rows larger than this are hashed with the interpreter released.
const DETACH_BYTES: usize = 1 << 16;

static SCAN_FAULT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The Python exception for a fault; its words live in one table on the Python side.
fn error(py: Python<'_>, fault: Fault) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let factory = SCAN_FAULT.get_or_try_init(py, || -> PyResult<_> {
            Ok(py.import("mtc.kernel._faults")?.getattr("scan_fault")?.unbind())
        })?;
        factory.bind(py).call1((fault.0, fault.1))
    };
    match make() {
        Ok(value) => PyErr::from_value(value),
        Err(failure) => failure,
    }
}

/// Which hash a name means. Names are checked on the Python side, so another one is a programming error.
#[derive(Clone, Copy, PartialEq)]
enum HashName {
    Sha256,
    Sm3,
}

impl HashName {
    fn parse(name: &str) -> PyResult<Self> {
        match name {
            "sha256" => Ok(Self::Sha256),
            "sm3" => Ok(Self::Sm3),
            _ => Err(PyValueError::new_err("unknown tree hash")),
        }
    }
}

/// Call a function that is generic over the tree hash with the hash of that name.
macro_rules! with_hash {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        match $name {
            HashName::Sha256 => $function::<Sha256>($($argument),*),
            HashName::Sm3 => $function::<Sm3>($($argument),*),
        }
    };
}

fn to_hash(bytes: &[u8]) -> PyResult<Hash> {
    bytes
        .try_into()
        .map_err(|_| PyValueError::new_err("a hash of another size"))
}

/// `merkle.Hasher` for one hash.
#[pyclass(frozen)]
struct NativeHasher {
    hash: HashName,
}

#[pymethods]
impl NativeHasher {
    #[new]
    fn new(name: &str) -> PyResult<Self> {
        Ok(Self {
            hash: HashName::parse(name)?,
        })
    }

    fn digest<'py>(&self, py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
        fn run<H: TreeHash>(data: &[u8]) -> Hash {
            H::digest(&[data])
        }
        PyBytes::new(py, &with_hash!(self.hash, run(data)))
    }

    fn leaf<'py>(&self, py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
        fn run<H: TreeHash>(data: &[u8]) -> Hash {
            H::digest(&[&[0], data])
        }
        PyBytes::new(py, &with_hash!(self.hash, run(data)))
    }

    fn node<'py>(&self, py: Python<'py>, left: &[u8], right: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        fn run<H: TreeHash>(left: &[u8], right: &[u8]) -> Hash {
            H::digest(&[&[1], left, right])
        }
        Ok(PyBytes::new(py, &with_hash!(self.hash, run(left, right))))
    }

    fn leaves<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        fn run<H: TreeHash>(item: &[u8]) -> Hash {
            H::digest(&[&[0], item])
        }
        let mut row = Vec::new();
        for item in items.try_iter()? {
            let item = item?;
            row.extend_from_slice(&with_hash!(self.hash, run(item.cast::<PyBytes>()?.as_bytes())));
        }
        Ok(PyBytes::new(py, &row))
    }

    fn fold<'py>(&self, py: Python<'py>, row: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        use tree::fold;
        if !row.len().is_multiple_of(2 * HASH_SIZE) {
            return Err(PyValueError::new_err("an odd row"));
        }
        let hash = self.hash;
        let above = if row.len() < DETACH_BYTES {
            with_hash!(hash, fold(row))
        } else {
            py.detach(|| with_hash!(hash, fold(row)))
        };
        Ok(PyBytes::new(py, &above))
    }
}

/// The subtree hash that a proof leads to, or None when the proof does not fit. The caller checked the interval.
#[pyfunction]
fn evaluate_inclusion<'py>(
    py: Python<'py>,
    hash_name: &str,
    leaf: u64,
    last: u64,
    entry_hash: &[u8],
    proof: &[u8],
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    fn run<H: TreeHash>(leaf: u64, last: u64, entry_hash: Hash, proof: &[u8]) -> Option<Hash> {
        tree::evaluate_inclusion::<H>(leaf, last, entry_hash, proof).ok()
    }
    let value = with_hash!(
        HashName::parse(hash_name)?,
        run(leaf, last, to_hash(entry_hash)?, proof)
    );
    Ok(value.map(|hash| PyBytes::new(py, &hash)))
}

/// Whether a consistency proof of a non-empty subtree holds. The caller checked the interval.
#[pyfunction]
fn verify_consistency(
    hash_name: &str,
    start: u64,
    end: u64,
    tree_size: u64,
    node_hash: &[u8],
    root: &[u8],
    proof: &[u8],
) -> PyResult<bool> {
    use tree::verify_consistency as run;
    let (node_hash, root) = (to_hash(node_hash)?, to_hash(root)?);
    Ok(with_hash!(
        HashName::parse(hash_name)?,
        run(start, end, tree_size, node_hash, root, proof)
    ))
}

/// The inclusion proofs of leaves [first, last) over a row of leaf hashes.
#[pyfunction]
fn inclusion_proofs<'py>(
    py: Python<'py>,
    hash_name: &str,
    row: &[u8],
    first: usize,
    last: usize,
) -> PyResult<Bound<'py, PyList>> {
    use tree::rows;
    let hash = HashName::parse(hash_name)?;
    let above = py.detach(|| with_hash!(hash, rows(row)));
    let levels: Vec<&[u8]> = std::iter::once(row).chain(above.iter().map(Vec::as_slice)).collect();
    let levels = &levels[..levels.len() - 1];
    let mut proof = Vec::with_capacity(levels.len() * HASH_SIZE);
    let proofs = PyList::empty(py);
    for index in first..last {
        proof.clear();
        for (depth, level) in levels.iter().enumerate() {
            let at = ((index >> depth) ^ 1) * HASH_SIZE;
            if let Some(sibling) = level.get(at..at + HASH_SIZE) {
                proof.extend_from_slice(sibling);
            }
        }
        proofs.append(PyBytes::new(py, &proof))?;
    }
    Ok(proofs)
}

/// How one issuer's certificates are laid out.
struct Issuer {
    signature_algorithm: Vec<u8>,
    signatures_width: usize,
    id_limit: usize,
    entry_limit: usize,
    hash: HashName,
    owner: Py<PyAny>,
}

/// What one pass over a certificate yields, before it becomes a tuple.
struct Scanned<'a> {
    issuer: &'a Issuer,
    serial: u64,
    not_before: i64,
    not_after: i64,
    start: u64,
    end: u64,
    root: Hash,
    entry_hash: Hash,
    extensions: (usize, usize),
    signatures_start: usize,
}

#[pyclass(frozen)]
struct NativeScanner {
    /// By distinguished name, sorted.
    issuers: Vec<(Vec<u8>, Issuer)>,
}

impl NativeScanner {
    fn run(&self, der: &[u8]) -> Found<Scanned<'_>> {
        let layout = layout::parse_layout(der)?;
        let issuer_name = &der[layout.issuer.0..layout.issuer.1];
        let place = self
            .issuers
            .binary_search_by(|(name, _)| name.as_slice().cmp(issuer_name));
        let (_, issuer) = &self.issuers[place.map_err(|_| Fault("unknown-ca", layout.issuer.0))?];
        with_hash!(issuer.hash, scan_for(der, layout, issuer))
    }
}

fn scan_for<'a, H: TreeHash>(der: &[u8], layout: layout::Layout, issuer: &'a Issuer) -> Found<Scanned<'a>> {
    let algorithm = &der[layout.signature.0..layout.signature.1];
    if algorithm != issuer.signature_algorithm {
        return Err(Fault("not-mtc", layout.signature.0));
    }
    if &der[layout.outer_signature.0..layout.outer_signature.1] != algorithm {
        return Err(Fault("algorithm-mismatch", layout.outer_signature.0));
    }
    let (value, value_end) = layout.value;
    if value == value_end || der[value] != 0 {
        return Err(Fault("bad-bit-string", value));
    }
    let proof = layout::parse_proof_layout(
        der,
        value + 1,
        value_end,
        HASH_SIZE,
        issuer.signatures_width,
        issuer.id_limit,
    )?;
    let number = &der[layout.serial.0..layout.serial.1];
    // The INTEGER is minimal, so 9 bytes are in range only with a leading zero.
    if number[0] >= 0x80 || number.len() > 9 || (number.len() == 9 && number[0] != 0) {
        return Err(Fault("serial-out-of-range", layout.serial.0));
    }
    let serial = number.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    if serial >> 48 == 0 {
        return Err(Fault("log-number-zero", layout.serial.0));
    }
    let index = serial & 0xffff_ffff_ffff;
    let (start, end) = (proof.start, proof.end);
    let is_subtree = start <= end && start & (bit_ceil(end - start) - 1) == 0;
    if !is_subtree {
        return Err(Fault("bad-subtree", proof.extensions.1));
    }
    if index < start || index >= end {
        return Err(Fault("index-not-in-subtree", proof.extensions.1));
    }
    let entry_size = (proof.extensions.1 - proof.extensions.0)
        + 2
        + (layout.version_end - layout.fields_start)
        + (layout.spki.0 - layout.issuer.0)
        + (layout.spki_algorithm.1 - layout.spki_algorithm.0)
        + 2
        + HASH_SIZE
        + (layout.tbs_end - layout.spki.1);
    if entry_size > issuer.entry_limit {
        return Err(Fault("too-large", layout.fields_start));
    }
    let spki_hash = H::digest(&[&der[layout.spki.0..layout.spki.1]]);
    let entry_hash = H::digest(&[
        &[0],
        &der[proof.extensions.0..proof.extensions.1],
        &[0, 1],
        &der[layout.fields_start..layout.version_end],
        &der[layout.issuer.0..layout.spki.0],
        &der[layout.spki_algorithm.0..layout.spki_algorithm.1],
        &[0x04, HASH_SIZE as u8],
        &spki_hash,
        &der[layout.spki.1..layout.tbs_end],
    ]);
    let hashes = &der[proof.inclusion.0..proof.inclusion.1];
    let root = tree::evaluate_inclusion::<H>(index - start, end - start - 1, entry_hash, hashes).map_err(|misfit| {
        Fault(
            match misfit {
                Misfit::TooLong => "proof-too-long",
                Misfit::TooShort => "proof-too-short",
            },
            proof.inclusion.0,
        )
    })?;
    Ok(Scanned {
        issuer,
        serial,
        not_before: layout.not_before,
        not_after: layout.not_after,
        start,
        end,
        root,
        entry_hash,
        extensions: layout.extensions,
        signatures_start: proof.signatures_start,
    })
}

/// The smallest power of two that is at least `n`, 1 for 0; `n` has at most 48 bits here.
fn bit_ceil(n: u64) -> u64 {
    n.max(1).next_power_of_two()
}

fn to_tuple<'py>(py: Python<'py>, scanned: &Scanned<'_>) -> PyResult<Bound<'py, PyTuple>> {
    (
        scanned.issuer.owner.bind(py),
        scanned.serial,
        scanned.not_before,
        scanned.not_after,
        scanned.start,
        scanned.end,
        PyBytes::new(py, &scanned.root),
        PyBytes::new(py, &scanned.entry_hash),
        scanned.extensions.0,
        scanned.extensions.1,
        scanned.signatures_start,
    )
        .into_pyobject(py)
}

#[pymethods]
impl NativeScanner {
    /// issuers: distinguished name DER -> (algorithm DER, signatures width, ID limit, entry limit, hash name, owner).
    #[new]
    fn new(issuers: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut table = Vec::new();
        for (name, form) in issuers {
            type Form = (Vec<u8>, usize, usize, usize, String, Py<PyAny>);
            let (algorithm, signatures_width, id_limit, entry_limit, hash_name, owner): Form = form.extract()?;
            let hash = HashName::parse(&hash_name)?;
            let issuer = Issuer {
                signature_algorithm: algorithm,
                signatures_width,
                id_limit,
                entry_limit,
                hash,
                owner,
            };
            table.push((name.extract::<Vec<u8>>()?, issuer));
        }
        table.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(Self { issuers: table })
    }

    fn scan<'py>(&self, py: Python<'py>, der: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
        match self.run(der) {
            Ok(scanned) => to_tuple(py, &scanned),
            Err(fault) => Err(error(py, fault)),
        }
    }

    fn scan_many<'py>(&self, py: Python<'py>, ders: Vec<Bound<'py, PyBytes>>) -> PyResult<Bound<'py, PyList>> {
        let slices: Vec<&[u8]> = ders.iter().map(|der| der.as_bytes()).collect();
        let scans: Vec<_> = py.detach(|| slices.iter().map(|der| self.run(der)).collect());
        let results = PyList::empty(py);
        for scan in &scans {
            match scan {
                Ok(scanned) => results.append(to_tuple(py, scanned)?)?,
                Err(fault) => results.append(error(py, *fault).into_value(py))?,
            }
        }
        Ok(results)
    }
}

/// The fields of `ExtensionScan` for the Extensions contents der[start..end].
#[pyfunction]
fn scan_extensions<'py>(py: Python<'py>, der: &[u8], start: usize, end: usize) -> PyResult<Bound<'py, PyTuple>> {
    if end > der.len() || start > end {
        return Err(PyValueError::new_err("extensions outside the certificate"));
    }
    let found = extensions::scan_extensions(der, start, end).map_err(|fault| error(py, fault))?;
    let bytes = |span: (usize, usize)| PyBytes::new(py, &der[span.0..span.1]);
    let list = |spans: Vec<(usize, usize)>| PyList::new(py, spans.into_iter().map(bytes));
    let (dns_names, ip_addresses) = match found.names {
        Some((dns_names, ip_addresses)) => (Some(list(dns_names)?), Some(list(ip_addresses)?)),
        None => (None, None),
    };
    (
        found.is_ca,
        found.key_usage,
        found.purposes,
        dns_names,
        ip_addresses,
        found.unknown_critical.map(bytes),
    )
        .into_pyobject(py)
}

/// `KeyFilter`: built by one thread, then asked by many.
#[pyclass]
struct NativeKeyFilter {
    bits: Vec<u8>,
}

#[pymethods]
impl NativeKeyFilter {
    /// The filter with these bits, whose length the caller checked.
    #[new]
    fn new(bits: Vec<u8>) -> Self {
        Self { bits }
    }

    #[staticmethod]
    fn empty(capacity: u64) -> Self {
        Self {
            bits: vec![0; keys::filter_bytes(capacity)],
        }
    }

    fn add_many(&mut self, py: Python<'_>, records: &[u8]) -> PyResult<()> {
        if !records.len().is_multiple_of(keys::RECORD_BYTES) {
            return Err(PyValueError::new_err("an odd row"));
        }
        let bits = &mut self.bits;
        py.detach(|| keys::add(bits, records));
        Ok(())
    }

    fn contains_many(&self, py: Python<'_>, fingerprints: &[u8]) -> PyResult<Vec<usize>> {
        if !fingerprints.len().is_multiple_of(keys::FINGERPRINT_BYTES) {
            return Err(PyValueError::new_err("an odd row"));
        }
        Ok(if fingerprints.len() < DETACH_BYTES {
            keys::contains(&self.bits, fingerprints)
        } else {
            py.detach(|| keys::contains(&self.bits, fingerprints))
        })
    }

    fn encode<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.bits)
    }
}

/// The fingerprints of keys, one after the other.
#[pyfunction]
fn fingerprints<'py>(py: Python<'py>, keys: Vec<Bound<'py, PyBytes>>) -> Bound<'py, PyBytes> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let row = py.detach(|| keys.iter().flat_map(|key| keys::fingerprint(key)).collect::<Vec<u8>>());
    PyBytes::new(py, &row)
}

/// The sorted records of keys with consecutive indices.
#[pyfunction]
fn key_records<'py>(py: Python<'py>, keys: Vec<Bound<'py, PyBytes>>, first: u64) -> Bound<'py, PyBytes> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let row = py.detach(|| keys::records(&keys, first));
    PyBytes::new(py, &row)
}

/// A row of records, sorted.
#[pyfunction]
fn sort_key_records<'py>(py: Python<'py>, row: &[u8]) -> Bound<'py, PyBytes> {
    let sorted = py.detach(|| keys::sort(row));
    PyBytes::new(py, &sorted)
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeHasher>()?;
    module.add_class::<NativeScanner>()?;
    module.add_class::<NativeKeyFilter>()?;
    module.add_function(wrap_pyfunction!(evaluate_inclusion, module)?)?;
    module.add_function(wrap_pyfunction!(verify_consistency, module)?)?;
    module.add_function(wrap_pyfunction!(inclusion_proofs, module)?)?;
    module.add_function(wrap_pyfunction!(fingerprints, module)?)?;
    module.add_function(wrap_pyfunction!(key_records, module)?)?;
    module.add_function(wrap_pyfunction!(sort_key_records, module)?)?;
    module.add_function(wrap_pyfunction!(scan_extensions, module)?)
}
