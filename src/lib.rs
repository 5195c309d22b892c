//! orlop, a crates.io mirror that a lab installs and forgets. This page is the map of the code.
//!
//! One binary fetches, verifies and keeps crate files and index files, and serves them to cargo:
//! the sparse index at `/index/`, a git index at `/git/index`, the download endpoint at
//! `/api/v1/crates/{crate}/{version}/download`, a status page at `/`, metrics at `/metrics`. What was
//! served once is served again when upstream is gone.
//!
//! # Modules
//!
//! Higher layers first. An import may only go to a lower layer, and modules of one layer do not import
//! one another; the files of most modules have layers, too. `tests/tidy` lists and holds both, and that
//! no files import one another in a circle.
//!
//! | layer | module | what it does |
//! |---|---|---|
//! | 13 | `main.rs` | arguments in, exit code out |
//! | 12 | [`cli`] | commands and their output, the start and the end of a server, exit codes; the only module that prints |
//! | 11 | [`doctor`] | why a client does not get its crates, what is wrong on the server: findings as data |
//! | 10 | [`config`] | flags > environment > file > defaults: one table of keys writes into the `Options` of each module |
//! | 9 | [`http`] | routes, handlers and pages, the response cache; errors as statuses |
//! | 9 | [`admin`] | the socket by which commands reach the server that has the store |
//! | 8 | [`app`] | the parts of a running orlop: starts them in order, gives them new options, ends them in order |
//! | 7 | [`status`] | what the server reports about itself: one verdict, the events, the traffic, what is known of a crate |
//! | 6 | [`jobs`] | sync, export, import, verify, gc, backup and the like: `trait Job`, what runs beside what |
//! | 5 | [`git_index`] | publishes views as git repositories; follows an upstream git index |
//! | 4 | [`mirror`] | serves on demand: an index file or a crate file, once for all who wait |
//! | 3 | [`store`] | everything on disk: index entries in sled, crate files, the journal, the event log |
//! | 3 | [`upstream`] | the registry as a client: requests, retries, breaker, address rules; hides reqwest |
//! | 3 | [`git`] | git objects, packs and protocol; hides gix |
//! | 3 | [`policy`] | pure rules over facts and `now`: freshness, modes, views, closures |
//! | 2 | [`listen`] | connections: TCP, HTTP/1.1, HTTP/2, h2c upgrade; knows nothing of orlop |
//! | 2 | [`registry`] | the types of the domain: names, releases, checksums, index lines, layout |
//! | 2 | [`metrics`] | every series, declared once; hides prometheus |
//! | 1 | [`util`] | the few helpers that several modules need: clock, background runtime, replaceable options, single flight |
//!
//! # Request flows
//!
//! **A warm answer**: `http::front` finds the path in the response cache (`http::cache`); the version
//! counter of the crate is unchanged and the answer has not expired: the bytes are sent. No routing, no
//! store.
//!
//! **A download**: `http::download` parses a [`registry::Release`] → [`mirror::Mirror::crate_file`]
//! → the record of the crate in the [`store`] names the sha256 to expect (an unknown version: the
//! index file is asked for again, once, then 404) → the blob, if there is one → else one leader on
//! [`util::background`] asks [`upstream`], writes into a spool file (a [`store::Reservation`]), and all
//! clients read behind it → verified → `Reservation::commit`: fsync, rename, fsync of the folder, then
//! the record → the held-back end of the body is sent.
//!
//! **An index request**: `http::sparse` checks the path → one call, [`mirror::Mirror::index_file`] →
//! [`policy::freshness`] decides on what the store knows → fresh: served; stale: one conditional
//! request to the [`mirror::IndexSource`] for all who wait → new bytes go through
//! [`store::Store::publish`] → the rules of the [`policy::View`] leave lines out → served. Upstream
//! down: the stored file with its age in a header, or refused in mode `strict`.
//!
//! **A view**: every handler of an index takes a [`policy::View`] (`http::view`). At the root it is
//! `View::all()`, which has no rules; below `/view/{view}/` it is another one. Its git index is a
//! repository of its own.
//!
//! **Publish**: `Store::publish` numbers each change and names it to subscribers → [`git_index`] finds
//! that it has been quiet for long enough, and compares the names with the tree of the head →
//! [`store::Store::make_durable`] → [`git::Repo::commit`], with the change number →
//! [`store::Store::note_published`]. One direction: a lost repository begins anew with a new root
//! commit. Only where the head's change number shows that sled lost changes do they come back from the
//! head, and before anything else.
//!
//! **A git fetch**: `http::git` → [`git::upload_pack`] turns the request into an answer and a
//! selection, purely → [`git::Serving::pack`] cuts a stream out of the history → read piece by piece
//! on blocking threads as the client takes it. It waits for no upstream.
//!
//! **A followed index** (`upstream.git_index`): `git_index::follow::FollowedIndex` is an
//! [`mirror::IndexSource`] → [`git::follow`] speaks the git protocol by gix, and [`upstream`] sends its
//! requests → the difference of two trees → the names that changed go through `Store::publish` like any
//! other change.
//!
//! **A job** (`orlop sync`, `orlop stats`, …): `cli::commands` makes the struct that is the request,
//! and opens the files that were named → `cli::job` asks the server that has the store by its
//! [`admin`] socket ([`jobs::JobRequest`]), else opens the store itself → [`jobs::Jobs::run`] admits it
//! beside those that run → [`jobs::Job::run`] with a [`jobs::JobContext`] and the [`jobs::Services`] →
//! events to whoever listens → the report.
//!
//! **A sync**: `jobs::select` reads lockfiles, names and lists; [`policy::closure`] says of which
//! names the index is needed, and chooses versions, purely → what is not stored goes through the
//! same fetches that clients join ([`mirror::Mirror::hold`]), at the pace that is set → what failed is
//! kept with its cause and tried again by the next sync.
//!
//! **Export and import**: `jobs::bundle` writes a tar (`jobs::archive`) of a signed manifest, the index
//! files, the journal's events and the crate files, and reads it on the other side: signature →
//! checksums of the sections → crate files through `Reservation::commit` → only then the index files
//! through `Store::publish` → a receipt of what is there now, against which the next bundle is a delta.
//!
//! **A backup**: `jobs::backup` sends the command a tar of the files that make up the store, and a list
//! of its crate files → `cli` lays them out in a folder, with links or copies of the crate files →
//! restored by `Store::open`'s way of rebuilding sled, and a dump of the index.
//!
//! **A diagnosis** (`orlop doctor`): `cli::commands::doctor` → [`doctor::examine`] reads cargo's
//! configuration, makes the requests of a client to the mirror, takes from `/status.json` what the
//! server knows itself → findings, which `cli` prints.
//!
//! **A start**: `cli` has [`config`] read → `cli::serve` → `cli::open` makes the parts:
//! [`upstream::Upstream`], [`store::Store::open`] (lock, format, sled with a deadline; a sled that does
//! not open is set aside and rebuilt from journal and blobs), [`git::Repo`] → [`app::App::start`]: index
//! files that sled lost come back from the git index, the periodic work and a look through the blobs
//! begin → admin socket → listen → ready line. Under systemd sockets may be handed over, and
//! `cli::vitals` keeps the status text and feeds the watchdog.
//!
//! **A reload** (`orlop reload`, SIGHUP): [`admin`] or the signal → `cli::reload` has [`config`] read the
//! sources of the start again and checks all of it → the log's filter, the public URL of [`http`], then
//! [`app::App::reload`]; version counters change with it, so that no answer of the response cache
//! outlives it → what needs a restart is named.
//!
//! # Invariants
//!
//! `tests/tidy` holds the first two; the tests of the modules hold the others.
//!
//! - `registry` and `policy` do no I/O and read no clock. `store`, `upstream` and `git` do not know one
//!   another. `listen` and `git` import nothing of orlop but `util`.
//! - Only `store` names sled, only `store::codec` and `jobs::lines` zstd, only `jobs::archive` tar, only
//!   `upstream` reqwest, only `git` gix, only `http` and `listen` actix, only `metrics` prometheus. Only `cli`
//!   prints. Only `config` reads the environment. Only [`util::clock`] reads the time of day for a
//!   decision.
//! - A crate becomes visible only through `Reservation::commit`, an index file only through
//!   `Store::publish`. An index line is served byte for byte or not at all.
//! - A blob is identified by its sha256, never by a name and a version. An I/O error is never a miss.
//! - Fetches and jobs run on a runtime of their own, never on a worker of `http`; blocking calls run on
//!   blocking threads. Every body, queue, retry, wait and cache has a bound.
//!
//! # Where to change what
//!
//! | change | file |
//! |---|---|
//! | a metric | `metrics/mod.rs` declares it, `metrics/labels.rs` has the label values; who counts it has an `Arc<Metrics>`; a gauge is a field of `Gauges`, read in `http/operations.rs`; the dashboard or a rule must show it (`packaging/grafana`, `packaging/prometheus`) |
//! | a setting | the module's `Options` (field and default), a row of `config/keys.rs` (documentation and reason); a new kind of value, such as a secret: `config/value.rs`; two that contradict: `config/check.rs`; `packaging/orlop.toml` is generated (`config/tests.rs` says how) |
//! | a setting that changes while it runs | `RELOAD` in its row of `config/keys.rs`; `App::reload` in `app.rs` (`reloaded` of the `Options` of `mirror` and `jobs`), or `cli/reload.rs` (log, `http`) |
//! | a part that the others are made of | `cli/open.rs` opens it, `app.rs` starts it, `jobs/services.rs` hands it to jobs and pages |
//! | what is tried again, and when | `upstream/retry.rs` (the policy of clients and of jobs), `upstream/breaker.rs`; who tries: `upstream/mod.rs` (index), `mirror/fetch.rs` (crate files), `jobs/retry.rs` (jobs) |
//! | what the registry is sent: headers, a token | `upstream/sparse.rs`, `download.rs` and `git.rs` make the requests, `upstream/mod.rs` sends them (`lend_credentials`: who gets credentials); `read_config` in `sparse.rs` refuses `auth-required` (text in `upstream/error.rs`); `upstream/secret.rs` is a URL with a secret; settings in `upstream/mod.rs`, `config/value.rs`, `config/keys.rs` |
//! | how the registry is reached: TLS roots, proxies, redirects, private addresses | `upstream/client.rs`, `upstream/resolve.rs` |
//! | where index files come from | an [`mirror::IndexSource`] (`mirror/source.rs`), chosen in `app.rs` |
//! | another tier of blobs, such as a bucket | `store/blob_store.rs` is the seam and its module documentation says how; a tier is a file beside `store/raw_files.rs`, where `Blobs` names the type in use, made in `store/handle.rs`; settings in `store/options.rs` and `config/keys.rs`. `store` and `upstream` may not import one another, and only `upstream` names reqwest: the client of a bucket is in `upstream`, the trait that a tier calls is in `store`, and `cli/open.rs` implements the one by the other. `store/rebuild.rs` walks the tier. Backup and restore go by path: `cli/commands/{backup/folder,restore}.rs` |
//! | a codec of blobs | `store/raw_files.rs`: the end of a file's name is the codec; `BlobReader` (`store/blob_store.rs`) has plain bytes in a file; byte 6 of a row in `store/codec.rs`, which is about records, but the only file of `store` that may name zstd; `stat` and `open` return the plain length, which is the Content-Length; bytes in the metrics and on the page: `metrics/labels.rs`, `http/operations.rs`, `http/page/facts.rs`; `.raw` is also in `cli/commands/backup/folder.rs`; what compresses older blobs is a job |
//! | who refers to a blob, and what may be removed | `store/owners.rs`, `jobs/upkeep/gc.rs` |
//! | bytes on disk | `store/codec.rs`, `store/journal.rs`, `store/published.rs`: a new version, a fixture, an upgrade test |
//! | a kind of connection, such as TLS | an `Acceptor` beside that of `listen/acceptor.rs`, chosen in `http/server.rs`; its settings in `listen/options.rs` and `config/keys.rs`; the scheme of our own URLs: `http/base.rs`, `admin/mod.rs` (`local_base`), `cli/serve.rs`, `doctor/server.rs`; certificates that are renewed while it runs: `cli/reload.rs` |
//! | who may read, such as tokens of clients | `http/front.rs`, which is before every answer, also a warm one; the check itself in a module of its own below `http`; settings in `http/options.rs`; `auth-required` in `registry/layout.rs`; what clients paste: `registry/client.rs`; `Cache-Control` in `http/cache.rs`; `doctor/mirror.rs` and `upstream/probe.rs` have to send one; `read_config` in `upstream/sparse.rs` refuses such a mirror as an upstream. `/git/`, `/metrics`, `/healthz` and `/readyz` pass the same front |
//! | an endpoint | `http/routes.rs`, a file beside it, its label in `http/front.rs`; one that views have takes an `http::view::InView` |
//! | a view | `policy/view.rs` (`KNOWN`), `mirror/views` (which are on), `views.*` in `config/keys.rs`; its git index follows by itself (`git_index/compare.rs`) |
//! | a rule of a view, such as a minimum age | a file beside `policy/cached_only.rs`, put into a view in `policy/view.rs`; what a rule knows: `policy/rule.rs`, `registry/entry.rs` (a row has no `pubtime` yet; `status/crates.rs` reads it off the line), `mirror/views`; one that time changes says so in `Judgement::valid_until`, which the sparse and the git index follow; its parameter goes through `Options` of `mirror/views`; downloads ask no rule but `is_cached_only` (`mirror/fetch.rs`) |
//! | another kind of registry, such as that of rustup | first `store/reservation.rs` and `store/owners.rs`: a blob belongs to a crate version, and `gc` removes what has no owner; then `upstream/mod.rs` (it is one registry), types in `registry`, `mirror/fetch.rs`, `http/routes.rs`, `metrics/labels.rs`; made in `cli/open.rs` and `app.rs`; manifests that change need a record beside that of a crate (`store/table.rs`) and a rule of freshness (`policy/freshness.rs`) |
//! | when a commit of a git index is made, and its message | `git_index/pace.rs`, `git_index/message.rs` |
//! | a job | a struct that implements [`jobs::Job`], a row of `jobs/table.rs`, its kind in `jobs/kind.rs`, a command in `cli/commands`, `cli/args.rs` and `cli/mod.rs` |
//! | which jobs exclude each other | `jobs/running.rs` |
//! | the bundle format | `jobs/bundle/format.rs`: a new version, a fixture, an upgrade test |
//! | the verdict and what needs attention | `status/health.rs`, of the machine `status/machine.rs`; a new fact: `status/facts.rs`, gathered in `status/mod.rs` |
//! | what the pages show, and how | `http/page/model.rs` and `gather.rs`; `static/templates`, `orlop.css`, `orlop.js`, `http/page/{render,charts,text}.rs` |
//! | what an error looks like to cargo | `http/reply.rs`; to an administrator: `cli/error.rs` |
//! | what keeps the watchdog fed | `cli/vitals.rs` |
//! | a check of `orlop doctor` | `doctor/`: one file a subject |
//! | how progress looks | `cli/progress.rs` |
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
pub mod listen;
pub mod metrics;
pub mod mirror;
pub mod policy;
pub mod registry;
pub mod status;
pub mod store;
pub mod upstream;
pub mod util;
