//! How reports of several commands write sizes.

pub(in crate::cli) use crate::util::format::size;
