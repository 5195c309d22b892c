//! The label values of every series, as types: a label that is not listed here cannot be exported.

/// Declares an enum whose variants are the values of one label, in the order of export.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of export.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The value as Prometheus sees it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }
    };
}

label! {
    /// What a request was for.
    Endpoint {
        /// An index file.
        Index = "index",
        /// `config.json`.
        Config = "config",
        /// A crate's file.
        Download = "download",
        /// The git index.
        Git = "git",
        /// `cargo search`.
        Search = "search",
        /// The status page and its parts.
        Status = "status",
        /// The metrics themselves.
        Metrics = "metrics",
        /// `healthz` and `readyz`.
        Health = "health",
        /// All else: refused writes, unknown paths.
        Other = "other",
    }
}

label! {
    /// Where a bundle goes.
    Direction {
        /// Out of here.
        Export = "export",
        /// In here.
        Import = "import",
    }
}

label! {
    /// The protocol that a request came by.
    Protocol {
        /// HTTP/1.0 and 1.1.
        H1 = "h1",
        /// HTTP/2, by prior knowledge or upgrade.
        H2 = "h2",
    }
}

label! {
    /// How a connection came to its protocol.
    Arrival {
        /// HTTP/1.1.
        H1 = "h1",
        /// HTTP/2 by prior knowledge.
        H2 = "h2",
        /// HTTP/2 by the upgrade that cargo offers.
        Upgrade = "h2c_upgrade",
    }
}

label! {
    /// What a cache was asked for, and what upstream was asked for.
    Kind {
        /// An index file.
        Index = "index",
        /// A crate's file.
        Crate = "crate",
        /// `config.json` of upstream.
        Config = "config",
        /// The git repository of an upstream that is followed.
        Git = "git",
    }
}

label! {
    /// Where an answer came from.
    CacheResult {
        /// A ready answer in memory.
        Hot = "hot",
        /// The store, fresh.
        Hit = "hit",
        /// Upstream, because it was not here.
        Miss = "miss",
        /// The store, after upstream said that nothing changed.
        Revalidated = "revalidated",
        /// The store, too old, because upstream could not be asked.
        Stale = "stale",
        /// Nowhere: upstream does not have it.
        Negative = "negative",
        /// Nowhere, and upstream was not to be asked: offline, or a view of what is held.
        NotHeld = "not_held",
        /// Nowhere, because upstream or the store is in trouble: the answer was a 5xx.
        Failed = "failed",
    }
}

label! {
    /// How one request to upstream ended.
    Outcome {
        /// A whole answer.
        Ok = "ok",
        /// Nothing changed.
        NotModified = "not_modified",
        /// Upstream does not have it (404, 410, 451).
        NotFound = "not_found",
        /// No connection: refused, or the name did not resolve.
        Refused = "refused",
        /// No byte for too long.
        Timeout = "timeout",
        /// The connection broke, or the answer was no HTTP.
        Transport = "transport",
        /// A status that says that upstream is in trouble (429, 5xx) or denies us.
        Status = "status",
        /// The bytes were not what the index promises, or no index file.
        Mismatch = "mismatch",
        /// Not sent: the breaker was open.
        Breaker = "breaker",
    }
}

label! {
    /// What a git client asked for.
    GitRequest {
        /// `info/refs`.
        Refs = "refs",
        /// The refs, by a command of protocol 2.
        LsRefs = "ls_refs",
        /// A pack, or a part of the talk that leads to one.
        Fetch = "fetch",
    }
}

label! {
    /// The version of git's protocol.
    GitProtocol {
        /// The oldest.
        V0 = "0",
        /// The oldest with a version in front.
        V1 = "1",
        /// Commands.
        V2 = "2",
    }
}

label! {
    /// How a request of a git client ended.
    GitResult {
        /// Answered, without a pack.
        Ok = "ok",
        /// A pack, handed over to its end.
        Pack = "pack",
        /// The client left before its pack was whole.
        Aborted = "aborted",
        /// Refused: a wrong request, or nothing to serve yet.
        Refused = "refused",
        /// Turned away because too many fetched at the same time.
        Busy = "busy",
        /// The repository could not be read.
        Failed = "failed",
    }
}

label! {
    /// How one look at a git index that is followed ended.
    FollowOutcome {
        /// Names changed, and are published.
        Changed = "changed",
        /// Nothing changed.
        Unchanged = "unchanged",
        /// It could not be fetched or published.
        Failed = "failed",
    }
}

label! {
    /// What hashing a stored file found.
    Verified {
        /// It is what it should be.
        Good = "good",
        /// Its bytes are others.
        Damaged = "damaged",
        /// The disk does not give it.
        Unreadable = "unreadable",
        /// No record names it.
        Unknown = "unknown",
        /// A record takes it for held, and it is not there.
        Missing = "missing",
    }
}

label! {
    /// A kind of job that somebody asks for.
    Job {
        /// Fetching ahead.
        Sync = "sync",
        /// Asking for index entries again.
        Refresh = "refresh",
        /// Pins, made and taken back.
        Pin = "pin",
        /// Reports that only read.
        Read = "read",
        /// Hashing what is held.
        Verify = "verify",
        /// Removing.
        Gc = "gc",
        /// Writing a bundle.
        Export = "export",
        /// Taking in a bundle or files of a lab.
        Import = "import",
        /// Copying the store.
        Backup = "backup",
    }
}

label! {
    /// A host of upstream.
    Host {
        /// Where the index is.
        Index = "index",
        /// Where crate files are.
        Downloads = "downloads",
    }
}

label! {
    /// Something that upstream did and the journal keeps.
    JournalEvent {
        /// A name was seen for the first time.
        FirstSeen = "first_seen",
        /// A version was published.
        NewVersion = "new_version",
        /// A version was yanked.
        Yanked = "yanked",
        /// A version is no longer yanked.
        Unyanked = "unyanked",
        /// A version has another checksum than before.
        ChecksumChanged = "checksum_changed",
        /// A version is no longer in the index.
        VersionRemoved = "version_removed",
        /// Upstream no longer knows a name.
        NameGone = "name_gone",
        /// Upstream knows a name again.
        NameBack = "name_back",
    }
}

label! {
    /// How a job ended.
    JobResult {
        /// Well, and without problems.
        Ok = "ok",
        /// At its end, with problems in its report.
        Problems = "problems",
        /// With an error.
        Failed = "failed",
        /// Somebody ended it.
        Cancelled = "cancelled",
    }
}

label! {
    /// What a verification can find.
    Finding {
        /// Crate files whose bytes are others.
        Damaged = "damaged",
        /// Crate files that the disk does not give.
        Unreadable = "unreadable",
        /// Crate files that no record names.
        Unknown = "unknown",
        /// Crate files that a record takes for held, and that are not there.
        Missing = "missing",
        /// Index files that do not open.
        IndexEntry = "index_entry",
        /// A git index that cannot be used.
        Git = "git",
    }
}

label! {
    /// What became of a release that a sync dealt with.
    SyncResult {
        /// It came.
        Fetched = "fetched",
        /// It was here.
        Held = "held",
        /// It could not be fetched.
        Failed = "failed",
    }
}

label! {
    /// What the mirror does when upstream cannot be asked.
    ServingMode {
        /// It serves what is held.
        Fallback = "fallback",
        /// It serves no index entry that could not be checked.
        Strict = "strict",
        /// It never asks.
        Offline = "offline",
    }
}

label! {
    /// What is set aside when it cannot be used, and made again.
    SetAside {
        /// The index database of the store.
        Database = "index_database",
        /// The repository of the git index.
        Repository = "git_repository",
    }
}

label! {
    /// What the store keeps.
    Content {
        /// Crate files.
        Crates = "crates",
        /// Index files.
        Index = "index",
    }
}

label! {
    /// How the store keeps it.
    Codec {
        /// As it came.
        Raw = "raw",
        /// Compressed.
        Zstd = "zstd",
    }
}

label! {
    /// Which bytes of it are counted.
    Form {
        /// Those that came and are served.
        Original = "original",
        /// Those on the disk.
        Stored = "stored",
    }
}

// What can be together: a pair that cannot is not exported.

impl Kind {
    /// The results of a cache for what is served of this kind.
    pub(super) const fn results(self) -> &'static [CacheResult] {
        match self {
            Kind::Index => CacheResult::ALL,
            Kind::Crate => &[
                CacheResult::Hot,
                CacheResult::Hit,
                CacheResult::Miss,
                CacheResult::Negative,
                CacheResult::NotHeld,
                CacheResult::Failed,
            ],
            Kind::Config | Kind::Git => &[],
        }
    }

    /// Whether a request of this kind can end so. Only index files are asked for with a condition.
    pub(super) fn can_end(self, outcome: Outcome) -> bool {
        outcome != Outcome::NotModified || self == Kind::Index
    }
}

impl GitRequest {
    /// Whether a protocol has this request.
    pub(super) fn is_in(self, protocol: GitProtocol) -> bool {
        self != GitRequest::LsRefs || protocol == GitProtocol::V2
    }

    /// How this request can end.
    pub(super) const fn results(self) -> &'static [GitResult] {
        match self {
            GitRequest::Refs => &[GitResult::Ok, GitResult::Refused, GitResult::Failed],
            GitRequest::LsRefs => &[GitResult::Ok],
            GitRequest::Fetch => GitResult::ALL,
        }
    }
}

impl Content {
    /// How it is kept today.
    pub(super) const fn codec(self) -> Codec {
        match self {
            Content::Crates => Codec::Raw,
            Content::Index => Codec::Zstd,
        }
    }
}

impl Endpoint {
    /// The statuses that its answers have in the ordinary course of things, and in the trouble that
    /// alerts look for.
    pub(super) const fn usual_statuses(self) -> &'static [u16] {
        match self {
            Endpoint::Index => &[200, 304, 404, 503],
            Endpoint::Download => &[200, 206, 304, 404, 502, 503],
            Endpoint::Git => &[200, 403, 503],
            Endpoint::Health => &[200, 503],
            Endpoint::Other => &[404],
            Endpoint::Config | Endpoint::Search | Endpoint::Status | Endpoint::Metrics => &[200],
        }
    }
}
