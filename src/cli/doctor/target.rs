//! What is examined: the base of a mirror and its indexes, out of whatever people call its address.

use url::Url;

/// A mirror.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its base, with a slash at its end.
    pub(super) base: Url,
    /// Its sparse index, with a slash at its end.
    pub(super) sparse: Url,
    /// Whether its git index was named.
    pub(super) is_git: bool,
}

impl Target {
    /// Takes the base of a mirror, its sparse index with or without `sparse+`, or its git index.
    pub(super) fn parse(text: &str) -> Result<Target, String> {
        let text = text.trim();
        let (text, is_sparse) = match text.strip_prefix("sparse+") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let mut url = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("`{}` is not HTTP", url.scheme()));
        }
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        let at = |path: &str| {
            let mut url = url.clone();
            url.set_path(&format!("{}/", path.trim_end_matches('/')));
            url
        };
        if let Some(rest) = path.strip_suffix("/git/index") {
            let sparse = at(&format!("{rest}/index"));
            return Ok(Target {
                base: at(base_of(rest)),
                sparse,
                is_git: true,
            });
        }
        Ok(match path.strip_suffix("/index") {
            Some(rest) => Target {
                base: at(base_of(rest)),
                sparse: at(&path),
                is_git: false,
            },
            None if is_sparse => Target {
                base: at(&path),
                sparse: at(&path),
                is_git: false,
            },
            None => Target {
                base: at(&path),
                sparse: at(&format!("{path}/index")),
                is_git: false,
            },
        })
    }

    /// The host as it is resolved.
    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// The port that is connected to.
    pub(super) fn port(&self) -> u16 {
        self.base.port_or_known_default().unwrap_or(80)
    }
}

/// A view has its index below `/view/NAME`, and everything else where the mirror has it.
fn base_of(path: &str) -> &str {
    match path.rsplit_once("/view/") {
        Some((base, name)) if !name.contains('/') => base,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_people_call_the_address_leads_to_the_base() {
        let check = |text: &str, base: &str, sparse: &str| {
            let target = Target::parse(text).expect("an address");
            assert_eq!(
                (target.base.as_str(), target.sparse.as_str()),
                (base, sparse)
            );
        };
        for text in [
            "http://m:1",
            "http://m:1/",
            "sparse+http://m:1/index/",
            "http://m:1/index",
            "http://m:1/git/index",
        ] {
            check(text, "http://m:1/", "http://m:1/index/");
        }
        check(
            "sparse+http://m/a/view/held/index/",
            "http://m/a/",
            "http://m/a/view/held/index/",
        );
        check(
            "http://m/view/held/git/index",
            "http://m/",
            "http://m/view/held/index/",
        );
        check("sparse+https://m/", "https://m/", "https://m/");
        assert!(Target::parse("ftp://m/").is_err());
        assert!(Target::parse("m:8080").is_err());
    }
}
