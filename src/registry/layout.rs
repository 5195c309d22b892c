//! Where things are in a registry: `config.json`, the `dl` template and the paths of index files.

use serde::{Deserialize, Serialize};

use super::{Checksum, CrateName, Release};

/// What a registry says of itself in `config.json`.
///
/// Source: the [index configuration](https://doc.rust-lang.org/cargo/reference/registry-index.html#index-configuration).
/// Fields that are not named here are ignored, as cargo does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryConfig {
    /// The template of download URLs, see [`download_url`](RegistryConfig::download_url).
    pub dl: String,
    /// The base of the web API, without a slash at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Whether every request must carry a token, which orlop does not have.
    #[serde(default, rename = "auth-required", skip_serializing_if = "is_false")]
    pub auth_required: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl RegistryConfig {
    /// What a mirror that is reached at `base` (no slash at its end) says of itself.
    pub fn of_mirror(base: &str) -> RegistryConfig {
        RegistryConfig {
            dl: format!("{base}/api/v1/crates"),
            api: Some(base.to_owned()),
            auth_required: false,
        }
    }

    /// The URL of a release's file. `release` carries the spelling of the index line.
    ///
    /// All five markers of cargo are filled in (`{crate}`, `{version}`, `{prefix}`,
    /// `{lowerprefix}`, `{sha256-checksum}`); where none is there, `/{crate}/{version}/download`
    /// is appended.
    pub fn download_url(&self, release: &Release, checksum: &Checksum) -> String {
        const MARKERS: [&str; 5] = [
            "{crate}",
            "{version}",
            "{prefix}",
            "{lowerprefix}",
            "{sha256-checksum}",
        ];
        let version = release.version.to_string();
        if !MARKERS.iter().any(|marker| self.dl.contains(marker)) {
            let base = self.dl.trim_end_matches('/');
            return format!("{base}/{}/{version}/download", release.name);
        }
        let prefix = release.name.prefix();
        self.dl
            .replace("{crate}", release.name.as_str())
            .replace("{version}", &version)
            .replace("{prefix}", &prefix)
            .replace("{lowerprefix}", &prefix.to_ascii_lowercase())
            .replace("{sha256-checksum}", &checksum.to_hex())
    }
}

/// Reads the path of an index file, the part after the index's base: `se/rd/serde`.
///
/// # Errors
/// [`InvalidIndexPath::Name`] where the last segment is no crate name, and
/// [`InvalidIndexPath::Elsewhere`] with the right path where the folders do not fit the name or
/// the path is not in lower case.
pub fn parse_index_path(path: &str) -> Result<CrateName, InvalidIndexPath> {
    let last = path.rsplit('/').next().unwrap_or(path);
    let name = CrateName::parse(last)?;
    let right = name.index_path();
    if right == path {
        Ok(name)
    } else {
        Err(InvalidIndexPath::Elsewhere { right })
    }
}

/// Why a path is not that of an index file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIndexPath {
    /// The last segment is no crate name.
    #[error(transparent)]
    Name(#[from] super::name::InvalidName),
    /// The name is good, but its file is elsewhere.
    #[error("the index file of this crate is at `{right}`")]
    Elsewhere {
        /// The path that is right.
        right: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_dl(dl: &str, expected: &str) {
        let config = RegistryConfig {
            dl: dl.into(),
            api: None,
            auth_required: false,
        };
        let release = Release::parse("Inflector", "0.11.4").expect("a good release");
        let sum = Checksum::of(b"");
        assert_eq!(
            config.download_url(&release, &sum),
            expected.replace("SUM", &sum.to_hex())
        );
    }

    #[test]
    fn every_marker_of_a_dl_template_is_filled_in() {
        check_dl("http://h/dl", "http://h/dl/Inflector/0.11.4/download");
        check_dl("http://h/dl/", "http://h/dl/Inflector/0.11.4/download");
        check_dl(
            "http://h/{crate}/{crate}-{version}.crate",
            "http://h/Inflector/Inflector-0.11.4.crate",
        );
        check_dl(
            "http://h/{prefix}/{lowerprefix}/{crate}",
            "http://h/In/fl/in/fl/Inflector",
        );
        check_dl("http://h/{sha256-checksum}", "http://h/SUM");
    }

    #[test]
    fn our_config_has_no_slash_at_the_end() {
        let config = RegistryConfig::of_mirror("http://h:1/sub");
        let json = serde_json::to_string(&config).expect("plain strings");
        assert_eq!(
            json,
            r#"{"dl":"http://h:1/sub/api/v1/crates","api":"http://h:1/sub"}"#
        );
    }

    #[test]
    fn unknown_fields_of_a_config_are_ignored() {
        let text = r#"{ "dl" : "x", "api" : null, "new-thing": [1] }"#;
        let config: RegistryConfig = serde_json::from_str(text).expect("a good config");
        assert_eq!(config.api, None);
    }

    #[test]
    fn an_index_path_must_be_the_right_one() {
        assert!(parse_index_path("se/rd/serde").is_ok());
        assert!(parse_index_path("1/a").is_ok());
        for path in [
            "serde",
            "se/rd/Serde",
            "SE/RD/serde",
            "xx/rd/serde",
            "a/se/rd/serde",
            "3/a/abcd",
        ] {
            assert!(
                matches!(
                    parse_index_path(path),
                    Err(InvalidIndexPath::Elsewhere { .. })
                ),
                "{path}"
            );
        }
        for path in ["", "se/rd/", "../serde/..", "se/rd/a.b"] {
            assert!(
                matches!(parse_index_path(path), Err(InvalidIndexPath::Name(_))),
                "{path}"
            );
        }
    }
}
