//! What may be set about requests and responses.

use ipnet::IpNet;

use super::base::Bases;

/// What may be set about the answers; the listener has its own [`Options`](crate::listen::Options). `config::KEYS`
/// says why a default is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URL that clients reach this mirror by, without a slash at its end. `None`: whatever
    /// host they came by.
    pub public_url: Option<String>,
    /// Proxies that are believed about the host, scheme and prefix that a client came by.
    pub trusted_proxies: Vec<IpNet>,
    /// Memory for the response cache; zero keeps none.
    pub hot_cache_bytes: u64,
}

impl Options {
    pub(super) fn bases(&self) -> Bases {
        Bases {
            public_url: self.public_url.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            public_url: None,
            trusted_proxies: Vec::new(),
            hot_cache_bytes: 64 << 20,
        }
    }
}
