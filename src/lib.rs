//! orlop, a crates.io mirror that a lab installs and forgets. This page is the map of the code.
//!
//! One binary fetches, verifies and keeps crate files and index entries, and serves them to cargo:
//! the sparse index at `/index/`, the download endpoint at `/api/v1/crates/{crate}/{version}/download`,
//! a status page at `/`, metrics at `/metrics`. What was served once is served again when upstream
//! is gone.
//!
//! # Rooms
//!
//! An import may only go down; `tests/tidy.rs` holds that and the never-sentences below.
//!
//! | floor | room | owns |
//! |---|---|---|
//! | 9 | `main.rs` | arguments in, exit code out |
//! | 8 | [`cli`] | commands; putting the rooms together; the only room that prints |
//! | 7 | [`doctor`] | why a client does not get its crates, what is wrong on the server: findings as data |
//! | 6 | [`config`] | flags > environment > file > defaults; writes each key into the `Options` of its owner |
//! | 5 | [`http`] | hides actix: the listener, the routes, ready answers, errors as statuses |
//! | 5 | [`admin`] | the socket by which commands reach the server that has the store |
//! | 4 | [`status`] | what the server says about itself: one verdict, the events, the traffic, what is known of a crate |
//! | 3 | [`mirror`] | the jobs: an index entry or a crate on demand, once for all who wait; clock, loops |
//! | 2 | [`store`] | hides sled and zstd: records, value files, journal, commit, rebuild |
//! | 2 | [`upstream`] | hides reqwest: requests to the registry, retries, breaker, address rules |
//! | 2 | [`git`] | hides gix: the index as a bare repository, and how it is served |
//! | 2 | [`policy`] | pure rules over facts and `now`: freshness, modes, closures |
//! | 1 | [`registry`] | pure words of the domain: names, releases, checksums, index lines, layout |
//! | 1 | [`metrics`] | hides prometheus: every series, declared once |
//! | 0 | [`util`] | the few helpers that several modules need; knows nothing of orlop's domain |
//!
//! # Walks
//!
//! **A warm answer**: `http::front` finds the path in `http::cache`; the stamp of the crate in the
//! store and, for index files, the time are still good; the bytes go out. No routing, no store.
//!
//! **A view**: every handler of an index takes a [`policy::View`] (`http::view`). At the root it is
//! `View::all()`, which has no rules; below `/view/{view}/` it is another one. A rule leaves whole
//! lines out of the file that the root index serves. A view that shows only what is cached asks no
//! upstream, and its version counter moves when files come and go. Its git index is a repository of
//! its own, which `mirror::git_index` compares with the store.
//!
//! **A download**: `http::download` parses a [`registry::Release`] → [`mirror::Mirror::crate_file`]
//! → the record of the crate in the [`store`] names the sha256 to expect (an unknown version: the
//! index entry is asked for again, once, then 404) → the value file, if there is one → else one
//! leader on the mirror's runtime asks [`upstream`], writes into a spool file (a
//! [`store::Reservation`]), and all clients read behind it → verified → `Reservation::commit`:
//! fsync, rename, fsync of the folder, then the record → the held-back end of the body is released.
//!
//! **An index file**: `http::sparse` checks the path → [`mirror::Mirror::index_file`] →
//! [`policy::freshness`] decides on what the store knows → fresh: served; else one conditional
//! request upstream for all who wait → new bytes go through [`store::Store::publish`], the one
//! door by which readers see change → [`policy::view`] filters them → served; upstream in trouble:
//! served stale with its age, or refused in mode `strict`.
//!
//! **A generation**: `Store::publish` numbers each change and names it to subscribers →
//! `mirror::git_index` finds that it has been quiet for long enough, and compares the names with the
//! tree of the head → [`store::Store::make_durable`] → [`git::Repo::commit`], with the change number →
//! [`store::Store::note_published`]. One direction: a lost repository begins anew. Only where the
//! head's change number tells that the index database lost changes do they come back from the head.
//!
//! **A git fetch**: `http::git` → [`git::upload_pack`] turns the request into an answer and a
//! selection, purely → [`git::Serving::pack`] cuts a stream out of the history's one run of entries
//! → read piece by piece on blocking threads as the client takes it. It waits for nobody upstream.
//!
//! **A followed index** (`upstream.git_index`): `mirror::follow` → [`git::follow`] fetches, by its
//! own client of gix over the requests of [`upstream`] → the difference of two trees → the names
//! that changed go through `Store::publish` like any other change.
//!
//! **A sync**: `jobs::select` reads lockfiles, names and lists; [`policy::closure`] says of which
//! names the index is needed, and chooses versions, purely → what is not held goes through the
//! same fetches that clients join (`mirror::fetch`), waited for with patience, at the pace that is
//! set → what failed is kept with its cause and tried again by the next sync.
//!
//! **A bundle**: `jobs::bundle` writes a tar ([`jobs::archive`]) of a signed manifest, the index
//! files, the journal's events and the crate files, and reads it on the other side: signature →
//! checksums of the sections → crate files through `Reservation::commit` → only then the entries through `Store::publish` →
//! a receipt of what is there now, against which the next bundle is a difference.
//!
//! **A backup**: `jobs::backup` sends the command a tar of the files that make up the store, and a
//! list of its crate files → `cli` lays them out in a folder, with links or copies of the crate files → restored by `Store::open`'s way of rebuilding sled, and a dump of the
//! index.
//!
//! **A job** (`orlop sync`, `orlop stats`, …): `cli::commands` makes a [`jobs::Request`] and
//! opens the files that were named → `cli::job` asks the server that has the store by its
//! [`admin`] socket, else opens the store itself → [`mirror::Mirror::run_for`]: the registry of
//! jobs lets it begin → events to whoever listens, who never holds it up → the report.
//!
//! **A diagnosis** (`orlop doctor`): `cli::commands::doctor` → [`doctor::examine`] reads cargo's
//! configuration, goes the way of a request to the mirror, takes from `/status.json` what the server
//! knows itself, looks at the store's machine if this is the one → findings, which `cli` prints.
//!
//! **A start**: `cli` → [`config`] → [`store::Store::open`] (lock, format, sled with a deadline; a
//! sled that does not open is set aside and rebuilt from journal and value files) → [`git::Repo`]
//! opens → `mirror::git_index` gives a lost index back → listen → ready line → the blobs are looked through in the background.
//!
//! **A start under systemd**: `config` takes sockets that were handed over → `cli::notify` asks for time
//! while the store opens → ready lines, then `READY=1` → `cli::vitals` keeps the status text, and
//! feeds the watchdog while reads of the store come back and every worker of `http::listen` beats →
//! `STOPPING=1` with the time that the drain may take.
//!
//! **A reload** (`orlop reload`, SIGHUP): [`admin`] or the signal → `cli::reload` has [`config`] read the
//! sources of the start again and judges all of it → the log's filter, the bases of [`http`], then
//! [`mirror::Mirror::apply`]; stamps of ready answers change with it, so that none outlives it → what
//! needs a restart is named. Requests under way keep what they began with.
//!
//! # Never
//!
//! - `registry` and `policy` never do I/O and never read a clock.
//! - `store`, `upstream` and `git` never know one another: `mirror` carries values between them.
//! - Only `store` names sled, only it and `jobs::lines` zstd, only `jobs::archive` tar, only `upstream` reqwest, only `http` actix, only `metrics`
//!   prometheus. Only `cli` prints. Only `config` reads the environment. Only `mirror::tasks`
//!   reads the time of day for a decision.
//! - A crate becomes visible through `Reservation::commit` only, an index entry through
//!   `Store::publish` only.
//! - An index line is served byte for byte or not at all.
//! - A blob is known by its sha256, never by a name and a version.
//!
//! # Where to change what
//!
//! | change | file |
//! |---|---|
//! | a setting | the owner's `Options` (field and default), a row of `config/keys.rs` (documentation and reason); `packaging/orlop.toml` is generated |
//! | a setting that changes while it runs | `RELOAD` in its row of `config/keys.rs`, `mirror/live.rs` or `cli/reload.rs` |
//! | what keeps the watchdog fed | `cli/vitals.rs` |
//! | an endpoint | `http/routes.rs`, a file beside it; one that views have takes an `http::view::InView` |
//! | the verdict and what needs attention | `status/health.rs` |
//! | what the pages show, and how | `http/page/model.rs` and `gather.rs`; `static/templates`, `orlop.css`, `orlop.js`, `http/page/{render,charts,text}.rs` |
//! | what an error looks like to cargo | `http/reply.rs`; to an admin: `cli/error.rs` |
//! | when a commit of a git index is made, and its message | `mirror/git_index` |
//! | bytes on disk | `store/codec.rs`, `store/journal.rs`, `store/published.rs`: a new version, a fixture, an upgrade test |
//! | the bundle format | `mirror/bundle/format.rs`: a new version, a fixture, an upgrade test |
//! | a view of the index, or a rule of one | `policy/view.rs`, then `mirror/views` and `mirror/git_index` |
//! | what is tried again, and when | `upstream/retry.rs`, `upstream/breaker.rs` |
//! | what a command asks for and reports | the room's request and report, `cli/commands` |
//! | which jobs exclude each other | `mirror/jobs/registry.rs` |
//! | a check of `orlop doctor` | `doctor/`: one file a subject |
//! | how progress looks | `cli/progress.rs` |
//! | a metric | `metrics/mod.rs` |
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic
    )
)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod git;
pub mod git_index;
pub mod http;
pub mod jobs;
pub mod metrics;
pub mod mirror;
pub mod policy;
pub mod registry;
pub mod status;
pub mod store;
pub mod upstream;
pub mod util;
