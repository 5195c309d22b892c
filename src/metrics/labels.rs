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
