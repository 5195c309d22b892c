//! The pure words of the domain: crate names, releases, checksums, index entries and the paths they live at.
//!
//! Nothing here does I/O or reads a clock. A value of these types cannot be wrong: text from a
//! request, an index or a bundle is parsed once, at the edge, and what comes out is safe as a key
//! and as a piece of a path.

pub mod checksum;
pub mod client;
pub mod deps;
pub mod entry;
pub mod layout;
pub mod lockfile;
pub mod name;
pub mod release;

pub use checksum::Checksum;
pub use entry::{IndexFile, Row, Validators};
pub use layout::RegistryConfig;
pub use name::CrateName;
pub use release::Release;
