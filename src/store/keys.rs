//! The trees and keys in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `crates` | the crate's lower-case name | its record ([`codec`](super::codec)) |
//! | `crates` | 0 and `changes` | the change number, 8 bytes, little-endian ([`published`](super::published)) |
//! | `names` | the crate's lower-case name | nothing: what a search looks through, without the records |
//! | `meta` | `state` | [`State`](super::state::State) |
//! | `meta` | `lost` | nothing: index files were lost with an older sled and have to come back |
//! | `meta` | `born` | a number that was drawn when this sled was made, 8 bytes, little-endian |
//! | `kept` | the number of a table in one byte, and a key as text | what another module keeps ([`table`](super::table)) |

pub(super) const CRATES: &str = "crates";
/// Beside the records, so that one batch writes both. No name starts with a zero.
pub(super) const CHANGE_NUMBER: &str = "\0changes";
/// Below it are no records.
pub(super) const FIRST_RECORD: &[u8] = &[1];
pub(super) const NAMES: &str = "names";
pub(super) const META: &str = "meta";
pub(super) const STATE: &str = "state";
pub(super) const LOST: &str = "lost";
/// A number that was drawn when this sled was made.
pub(super) const BORN: &str = "born";
pub(super) const KEPT: &str = "kept";
