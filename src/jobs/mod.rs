//! Jobs: work that someone asks for, beside serving on demand. One implementation behind the admin
//! socket and behind a command that opens the store by itself.
//!
//! ```text
//! cli ─ JobRequest + files ─▶ admin (socket) ─▶ Jobs::run_request ─▶ Job::run
//!     ◀──── Event … Event ─ ReportJson | JobError ─┘
//! ```
//!
//! A job is a struct with its request ([`Job`]); [`JOBS`] has a row for each. Requests, events,
//! reports and errors are plain data in JSON. Files that a person names never cross the socket by
//! name: the command opens them, and the job gets descriptors ([`JobContext::take_files`]).
//!
//! The files in layers, the highest first:
//!
//! ```text
//! table                                         all jobs, by name
//! upkeep                                        stats, who, pin, refresh, verify, gc
//! sync · bundle · seed · backup                 the large jobs
//! select                                        what a selection of crates stands for
//! runner · hold · retry · saved_sets            what several jobs need
//! json · job · services                         the seam: a job, and what it works with
//! running · outbox · cancellable_io             which jobs run; events and files on their way
//! context · records                             what a job runs with; what is kept of the last one
//! archive · lines · options · selection · kind · error      formats, settings and plain types
//! ```

pub mod archive;
pub mod backup;
pub mod bundle;
mod cancellable_io;
mod context;
mod error;
mod hold;
mod job;
mod json;
mod kind;
mod lines;
mod options;
mod outbox;
mod records;
mod retry;
mod runner;
mod running;
pub mod saved_sets;
pub mod seed;
pub mod select;
mod selection;
mod services;
pub mod sync;
mod table;
pub mod upkeep;

pub use self::{
    context::{Caller, Event, Files, JobContext, Listener, Unit},
    error::{Failure, Fault, JobError},
    job::{Job, JobReport},
    json::{JobRequest, PrintedReport, ReportJson},
    kind::JobKind,
    options::{BundleOptions, Options, SyncOptions},
    outbox::Outbox,
    records::JobRecord,
    runner::{ENDED, Jobs},
    running::{RunningJob, RunningJobs, stopping},
    services::{ServerState, Services, ViewStatus},
    table::{JOBS, JobEntry},
};
