//! Tree hashing, proof evaluation and proof building over rows of hashes. The hash functions come from RustCrypto.

use sha2::Digest;

pub const HASH_SIZE: usize = 32;
pub type Hash = [u8; HASH_SIZE];

/// A tree hash of 32 bytes; every tree hash of the project has this size.
pub trait TreeHash: Send + Sync {
    fn digest(parts: &[&[u8]]) -> Hash;

    fn node(left: &[u8], right: &[u8]) -> Hash;
}

pub struct Sha256;
pub struct Sm3;

macro_rules! tree_hash {
    ($name:ty, $hash:ty) => {
        impl TreeHash for $name {
            fn digest(parts: &[&[u8]]) -> Hash {
                let mut hash = <$hash>::new();
                for part in parts {
                    hash.update(part);
                }
                hash.finalize().into()
            }

            fn node(left: &[u8], right: &[u8]) -> Hash {
                let mut data = [1; 1 + 2 * HASH_SIZE];
                data[1..=HASH_SIZE].copy_from_slice(left);
                data[1 + HASH_SIZE..].copy_from_slice(right);
                <$hash>::digest(data).into()
            }
        }
    };
}

tree_hash!(Sha256, sha2::Sha256);
tree_hash!(Sm3, sm3::Sm3);

/// Hash a row of 2k nodes into the row of k nodes above.
pub fn fold<H: TreeHash>(row: &[u8]) -> Vec<u8> {
    let mut above = Vec::with_capacity(row.len() / 2);
    for pair in row.chunks_exact(2 * HASH_SIZE) {
        above.extend_from_slice(&H::node(&pair[..HASH_SIZE], &pair[HASH_SIZE..]));
    }
    above
}

/// Why a proof does not fit its subtree.
pub enum Misfit {
    TooLong,
    TooShort,
}

/// Evaluate an inclusion proof for leaf `leaf` of a tree whose last leaf is `last`, both counted from its start.
pub fn evaluate_inclusion<H: TreeHash>(leaf: u64, last: u64, entry_hash: Hash, proof: &[u8]) -> Result<Hash, Misfit> {
    let (mut leaf, mut last, mut value) = (leaf, last, entry_hash);
    for sibling in proof.chunks_exact(HASH_SIZE) {
        if last == 0 {
            return Err(Misfit::TooLong);
        }
        if leaf & 1 == 1 || leaf == last {
            value = H::node(sibling, &value);
            // `leaf` is not 0 here: leaf == last == 0 was refused above.
            let skip = leaf.trailing_zeros();
            leaf >>= skip;
            last >>= skip;
        } else {
            value = H::node(&value, sibling);
        }
        leaf >>= 1;
        last >>= 1;
    }
    if last == 0 { Ok(value) } else { Err(Misfit::TooShort) }
}

/// Verify a subtree consistency proof for a non-empty subtree that ends by `tree_size`; false when it does not hold.
pub fn verify_consistency<H: TreeHash>(
    start: u64,
    end: u64,
    tree_size: u64,
    node_hash: Hash,
    root: Hash,
    proof: &[u8],
) -> bool {
    let (first_leaf, last_leaf, tree_last) = (start, end - 1, tree_size - 1);
    let apart = 64 - (first_leaf ^ last_leaf).leading_zeros();
    let shift = if last_leaf == tree_last {
        apart
    } else {
        apart.min(last_leaf.trailing_ones())
    };
    let down = |value: u64, by: u32| value.checked_shr(by).unwrap_or(0);
    let (mut fnode, mut snode, mut tnode) = (down(first_leaf, shift), down(last_leaf, shift), down(tree_last, shift));
    let mut hashes = proof.chunks_exact(HASH_SIZE);
    let mut first = node_hash;
    if fnode != snode {
        match hashes.next() {
            Some(hash) => first.copy_from_slice(hash),
            None => return false,
        }
    }
    let mut second = first;
    for sibling in hashes {
        if tnode == 0 {
            return false;
        }
        if snode & 1 == 1 || snode == tnode {
            if fnode < snode {
                first = H::node(sibling, &first);
            }
            second = H::node(sibling, &second);
            let skip = snode.trailing_zeros();
            fnode >>= skip;
            snode >>= skip;
            tnode >>= skip;
        } else {
            second = H::node(&second, sibling);
        }
        fnode >>= 1;
        snode >>= 1;
        tnode >>= 1;
    }
    tnode == 0 && first == node_hash && second == root
}

/// All rows of the tree over a row of leaf hashes, leaves first; a lone last node rises unchanged.
pub fn rows<H: TreeHash>(row: &[u8]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let mut below = row;
    while below.len() > HASH_SIZE {
        let even = below.len() & !(2 * HASH_SIZE - 1);
        let mut above = fold::<H>(&below[..even]);
        above.extend_from_slice(&below[even..]);
        rows.push(above);
        below = &rows[rows.len() - 1];
    }
    rows
}
