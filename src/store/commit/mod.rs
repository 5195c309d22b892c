//! The committer: one thread that does all writes to sled and the journal, many at a time.
//!
//! What waits in the queue becomes one batch, and everybody in it shares its syncs. In this order:
//!
//! 1. synced spool files are renamed to their places, and each folder is synced once (`blobs`);
//! 2. the journal gets what happened, and is synced;
//! 3. readers go on seeing the records as they were, while the new ones are put into sled, sled is
//!    flushed, and its files and folder are synced;
//! 4. readers see the new records, stamps move, and everybody is answered.
//!
//! The types in `stages` hold that order: each step takes the value that only the step before it
//! returns.
//!
//! A stop after 1 leaves crate files that no record knows: adoption finds them. A stop after 2
//! leaves a journal that is ahead of sled: it is replayed at open. So batches that only bring crate
//! files end after 1: their marks wait for the next quiet second, for the next batch that is
//! written anyway, or until there are many. A crate with thousands of versions has a record of some
//! hundred kilobytes, and each mark alone would write it anew. Until then readers take the files
//! for held all the same, and sled's count of the files is behind as well, so that adoption looks.
//!
//! | file | what |
//! |---|---|
//! | `stages` | the steps 2 to 4 of a batch, as types |
//! | `unmarked` | blobs whose marks are not written yet |
//! | `committer` | the thread: its loop, its batches, the answers, damage and the end |
//! | `blobs` | step 1: blobs that come and go |
//! | `write` | a batch from its jobs to its answers: what becomes of the records |
//! | `restore` | steps beside the batches: index files that were lost and are recovered |

mod blobs;
mod committer;
mod restore;
mod stages;
mod unmarked;
mod write;

pub(super) use self::committer::Committer;
