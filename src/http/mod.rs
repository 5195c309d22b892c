//! The public HTTP surface. Hides actix: no other room names it.

pub mod listen;
