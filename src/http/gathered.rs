//! What was gathered for the pages a moment ago, and what is being gathered.

use std::sync::Arc;

use actix_web::web::Bytes;

use super::reads::{ReadError, Reads};
use crate::{mirror, status::Facts};

/// How many crates and searches are looked for at a time: each has the store read and a page written.
const LOOKS_AT_ONCE: usize = 3;

/// How many of them wait, or are shown again, at most.
const MAX_LOOKS: usize = 48;

/// What is being gathered, and what was within the last second.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(super) overview: Reads<Arc<Facts>>,
    pub(super) pages: Reads<Looked>,
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered {
            // Before and after the stop begins.
            overview: Reads::new(1, 2),
            pages: Reads::new(LOOKS_AT_ONCE, MAX_LOOKS),
        }
    }
}

/// What came of a look for a crate or of a search.
#[derive(Debug, Clone)]
pub(super) enum Looked {
    /// The page or its JSON, written.
    Written(Bytes),
    /// There is no such crate here.
    Unknown,
    /// The store cannot be read.
    Failed(mirror::Error),
    /// Too many others look.
    Busy,
    /// It broke off; the log has why.
    Broke,
}

impl Looked {
    pub(super) fn of<T>(
        found: Result<Option<T>, mirror::Error>,
        write: impl FnOnce(T) -> Option<Bytes>,
    ) -> Looked {
        match found {
            Ok(Some(found)) => write(found).map_or(Looked::Broke, Looked::Written),
            Ok(None) => Looked::Unknown,
            Err(error) => Looked::Failed(error),
        }
    }

    pub(super) fn from(looked: Result<Looked, ReadError>) -> Looked {
        match looked {
            Ok(looked) => looked,
            Err(ReadError::Busy) => Looked::Busy,
            Err(ReadError::Aborted) => Looked::Broke,
        }
    }
}
