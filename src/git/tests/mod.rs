//! The git room's tests. The real `git` program is the judge of what is written.

mod repo;
