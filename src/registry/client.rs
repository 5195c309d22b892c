//! What cargo's users write into their configuration to reach a mirror.

/// The cargo configuration for a mirror whose clients reach it at `base` (no slash at its end).
///
/// `replace-with` names a registry and not a bare `[source.orlop]`: cargo follows it there, and
/// `cargo search` and `cargo info`, which work with registries only, find it under
/// `--registry orlop`. `registry.default` is left alone: with it, `cargo add` writes
/// `registry = "orlop"` into manifests that others read.
///
/// ```
/// let text = orlop::registry::client::client_config("http://mirror.lab:8080");
/// assert!(text.contains("index = \"sparse+http://mirror.lab:8080/index/\""));
/// ```
pub fn client_config(base: &str) -> String {
    let base = escaped(base.trim_end_matches('/'));
    with_index(&format!("sparse+{base}/index/"))
}

/// The same for the git index, for those whose cargo or network cannot use the sparse one.
///
/// ```
/// let text = orlop::registry::client::git_client_config("http://mirror.lab:8080");
/// assert!(text.contains("index = \"http://mirror.lab:8080/git/index\""));
/// ```
pub fn git_client_config(base: &str) -> String {
    let base = escaped(base.trim_end_matches('/'));
    with_index(&format!("{base}/git/index"))
}

/// The base of a view of the index, which has the same below it as the root.
///
/// ```
/// use orlop::registry::client::{git_client_config, view_base};
/// let text = git_client_config(&view_base("http://mirror.lab:8080", "held"));
/// assert!(text.contains("index = \"http://mirror.lab:8080/view/held/git/index\""));
/// ```
pub fn view_base(base: &str, view: &str) -> String {
    format!("{}/view/{view}", base.trim_end_matches('/'))
}

fn with_index(index: &str) -> String {
    format!(
        "\
# For $CARGO_HOME/config.toml, usually ~/.cargo/config.toml
[source.crates-io]
replace-with = \"orlop\"

[registries.orlop]
index = \"{index}\"
"
    )
}

/// The base comes from a setting or from the Host of a request, and people paste the result: what
/// could end the string is written as a URL writes it.
fn escaped(base: &str) -> String {
    let mut text = String::with_capacity(base.len());
    for letter in base.chars() {
        match letter {
            '"' => text.push_str("%22"),
            '\\' => text.push_str("%5C"),
            control if control.is_control() => {}
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(base: &str) -> String {
        index_in(&client_config(base))
    }

    fn index_in(text: &str) -> String {
        let table: toml::Table = text.parse().expect("TOML");
        let replaced = table["source"]["crates-io"]["replace-with"].as_str();
        assert_eq!(replaced, Some("orlop"));
        let index = table["registries"]["orlop"]["index"].as_str();
        index.expect("text").to_owned()
    }

    #[test]
    fn cargo_is_sent_to_the_sparse_index_below_the_base() {
        let check = |base: &str, index: &str| assert_eq!(index_of(base), index);
        check("http://host:8080", "sparse+http://host:8080/index/");
        check("http://host:8080/", "sparse+http://host:8080/index/");
        check("https://lab/sub", "sparse+https://lab/sub/index/");
        check("http://[::1]:80", "sparse+http://[::1]:80/index/");
    }

    #[test]
    fn cargo_is_sent_to_the_git_index_when_that_is_asked_for() {
        let index = index_in(&git_client_config("https://lab/sub/"));
        assert_eq!(index, "https://lab/sub/git/index");
    }

    #[test]
    fn cargo_is_sent_to_a_view_when_that_is_asked_for() {
        let base = view_base("https://lab/sub/", "held");
        assert_eq!(index_of(&base), "sparse+https://lab/sub/view/held/index/");
        let index = index_in(&git_client_config(&base));
        assert_eq!(index, "https://lab/sub/view/held/git/index");
    }

    #[test]
    fn nothing_in_the_base_gets_out_of_its_string() {
        let index = index_of("http://h\"\n[evil]\\");
        assert_eq!(index, "sparse+http://h%22[evil]%5C/index/");
    }
}
