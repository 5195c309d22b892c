//! What is asked of a sparse index and what its answers mean, as values: no I/O.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{
    DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, RETRY_AFTER,
};
use url::Url;

use crate::registry::{CrateName, IndexFile, RegistryConfig, Validators};

use super::{
    error::{Cause, ConfigFault, Kind},
    retry::parse_retry_after,
};

/// The longest validator that is kept, in bytes. Real ones have fewer than 100; ours are stored
/// with each entry.
const LONGEST_VALIDATOR_BYTES: usize = 1024;

/// What upstream has for a name.
#[derive(Debug, Clone)]
pub enum IndexAnswer {
    /// What the validators were given with is still what it has.
    NotModified,
    /// An index file; not necessarily another one, where upstream gives no validators.
    Changed {
        /// The file, looked through.
        file: IndexFile,
        /// What to recognize it by next time.
        validators: Validators,
    },
    /// Upstream does not have the name (404, 410 or 451).
    NotFound,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

impl Head {
    /// The text of a header. `None`: it is not there, or no text.
    pub(super) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What a status that is no success means.
    pub(super) fn failure(&self, said: Option<Box<str>>) -> Kind {
        let date = self.text(&DATE);
        match self.status {
            code @ (404 | 410 | 451) => Kind::NotFound { code },
            code => Kind::Status {
                code,
                retry_after: self
                    .text(&RETRY_AFTER)
                    .and_then(|value| parse_retry_after(value, date)),
                said,
            },
        }
    }
}

/// The base of an index, which paths are joined to: it ends in a slash, and has no query.
pub(super) fn base(url: &Url) -> Result<Url, ConfigFault> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ConfigFault::IndexScheme {
            scheme: url.scheme().to_owned(),
        });
    }
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

/// Asks for a file of the index, `path` being relative to its base.
fn ask(base: &Url, path: &str) -> Ask {
    let mut url = base.clone();
    let path = format!("{}{path}", base.path());
    url.set_path(&path);
    Ask {
        url,
        headers: HeaderMap::new(),
    }
}

/// Asks for `config.json`.
pub(super) fn ask_config(base: &Url) -> Ask {
    ask(base, "config.json")
}

/// Asks for the index file of `name`, unless it is still the one that `known` came with.
pub(super) fn ask_entry(base: &Url, name: &CrateName, known: &Validators) -> Ask {
    let mut ask = ask(base, &name.index_path());
    let etag = (IF_NONE_MATCH, &known.etag);
    let date = (IF_MODIFIED_SINCE, &known.last_modified);
    // The ETag alone where there is one: a date has seconds only, and RFC 9110 (13.1.3) has it
    // ignored beside an ETag anyway.
    for (header, value) in [etag, date] {
        let value = value.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(value)) = value {
            ask.headers.insert(header, value);
            break;
        }
    }
    ask
}

/// Reads the answer to `ask`, with which [`ask_entry`] asked for `name`.
pub(super) fn read_entry(
    name: &CrateName,
    ask: &Ask,
    head: &Head,
    body: Bytes,
) -> Result<IndexAnswer, Kind> {
    let was_conditional =
        ask.headers.contains_key(IF_NONE_MATCH) || ask.headers.contains_key(IF_MODIFIED_SINCE);
    match head.status {
        200 => {
            let file = IndexFile::parse(name, body)
                .map_err(|invalid| Kind::NotAnIndex(Arc::new(invalid)))?;
            Ok(IndexAnswer::Changed {
                file,
                validators: validators(head),
            })
        }
        304 if was_conditional => Ok(IndexAnswer::NotModified),
        304 => Err(Kind::Transport(Cause::text(
            "it said that nothing changed (304) to a request that named nothing",
        ))),
        404 | 410 | 451 => Ok(IndexAnswer::NotFound),
        _ => Err(head.failure(one_line(&body))),
    }
}

/// Reads the answer to [`ask_config`].
pub(super) fn read_config(head: &Head, body: &Bytes) -> Result<RegistryConfig, Kind> {
    match head.status {
        200 => {}
        404 | 410 | 451 => return Err(Kind::Config(ConfigFault::NoConfig)),
        _ => return Err(head.failure(one_line(body))),
    }
    let config: RegistryConfig = serde_json::from_slice(body)
        .map_err(|error| Kind::Config(ConfigFault::NotAConfig(Arc::new(error))))?;
    if config.auth_required {
        return Err(Kind::Config(ConfigFault::AuthRequired));
    }
    Ok(config)
}

fn validators(head: &Head) -> Validators {
    let keep = |name| {
        head.text(&name)
            .filter(|text| !text.is_empty() && text.len() <= LONGEST_VALIDATOR_BYTES)
            .map(str::to_owned)
    };
    Validators {
        etag: keep(ETAG),
        last_modified: keep(LAST_MODIFIED),
    }
}

/// The beginning of a body as one line of printable text; nothing of markup, which says little.
pub(super) fn one_line(body: &[u8]) -> Option<Box<str>> {
    const MOST_CHARS: usize = 200;
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') {
        return None;
    }
    let words: Vec<_> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let line: String = words.join(" ").chars().take(MOST_CHARS).collect();
    (!line.is_empty()).then(|| line.into())
}
