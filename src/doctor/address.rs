//! The mirror to examine: its base and its indexes, from any of the URLs that name one.

use url::Url;

use super::finding::Finding;

/// The URLs of a mirror, each with a slash at its end.
#[derive(Debug, Clone)]
pub(super) struct MirrorUrls {
    /// Its base.
    pub(super) base: Url,
    /// Its sparse index.
    pub(super) sparse: Url,
    /// Its git index.
    pub(super) git: Url,
    /// Whether the git index was named.
    pub(super) is_git: bool,
}

impl MirrorUrls {
    /// Reads the base of a mirror, its sparse index with or without `sparse+`, or its git index.
    pub(super) fn parse(text: &str) -> Result<MirrorUrls, Finding> {
        let sparse = text.trim().strip_prefix("sparse+");
        let url = Url::parse(sparse.unwrap_or(text.trim())).map_err(|error| error.to_string());
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https");
        let url = url.and_then(|url| {
            is_http(&url)
                .then_some(url)
                .ok_or("it is not HTTP".to_owned())
        });
        let mut url = url.map_err(|why| {
            finding!(Fail, "address" => "`{text}` is not the URL of a mirror: {why}";
                "name the mirror like http://mirror.lab:8080, or its index like sparse+http://mirror.lab:8080/index/")
        })?;
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        let git = path.strip_suffix("/git/index");
        let root = git.or_else(|| path.strip_suffix("/index"));
        let (root, is_bare) = (root.unwrap_or(&path), root.is_none());
        // The base of a view has only its indexes; everything else is at that of the mirror.
        let view = root.rsplit_once("/view/");
        let base = view.filter(|(_, name)| !name.contains('/'));
        let at = |path: &str| {
            let mut url = url.clone();
            url.set_path(&format!("{path}/"));
            url
        };
        Ok(MirrorUrls {
            base: at(base.map_or(root, |(base, _)| base)),
            sparse: at(&if is_bare && sparse.is_some() {
                path.clone()
            } else {
                format!("{root}/index")
            }),
            git: at(&format!("{root}/git/index")),
            is_git: git.is_some(),
        })
    }
}

/// The URL of `path` below a base with a slash at its end.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path()));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_url_that_names_a_mirror_leads_to_its_base() {
        let check = |text: &str, base: &str, sparse: &str| {
            let urls = MirrorUrls::parse(text).expect("an address");
            assert_eq!((urls.base.as_str(), urls.sparse.as_str()), (base, sparse));
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
        let urls = MirrorUrls::parse("http://m/view/held/index").expect("an address");
        assert_eq!(urls.git.as_str(), "http://m/view/held/git/index/");
        assert!(MirrorUrls::parse("ftp://m/").is_err());
        assert!(MirrorUrls::parse("m:8080").is_err());
    }
}
