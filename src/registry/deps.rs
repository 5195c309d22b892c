//! The dependencies that a line of an index file names.

use std::borrow::Cow;

use super::entry::KNOWN_LINE_FORMAT;

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyKind {
    /// The crate itself. Kinds that are not known yet count as this.
    Normal,
    /// Its build script.
    Build,
    /// Its tests and examples: only whoever works on the crate itself needs it.
    Dev,
}

/// A dependency of one version of a crate, as its index line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency<'a> {
    /// The name of the crate in its registry, whatever the dependent calls it.
    pub name: Cow<'a, str>,
    /// The requirement as it was written.
    pub req: Cow<'a, str>,
    /// What it is for.
    pub kind: DependencyKind,
    /// Whether it is only there when a feature asks for it.
    pub optional: bool,
    /// For which platforms; `None`: for all.
    pub target: Option<Cow<'a, str>>,
    /// The index of the registry that has it; `None`: the one of this line.
    pub registry: Option<Cow<'a, str>>,
}

/// The fields of a line that are read here; all others, known or not, are passed over.
///
/// Source: the [index format](https://doc.rust-lang.org/cargo/reference/registry-index.html#json-schema).
#[derive(serde::Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    deps: Option<Vec<Dep<'a>>>,
    v: Option<u32>,
}

#[derive(serde::Deserialize)]
struct Dep<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    req: Option<Cow<'a, str>>,
    optional: Option<bool>,
    #[serde(borrow, default)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    registry: Option<Cow<'a, str>>,
    /// The name in the registry, where `name` is what the dependent calls it.
    #[serde(borrow, default)]
    package: Option<Cow<'a, str>>,
}

/// The dependencies of `line`, in its order. A line of a format that no cargo of today reads has
/// none, because nobody can choose it.
///
/// # Errors
/// The line is not JSON as the index format has it.
pub fn dependencies(line: &[u8]) -> Result<Vec<Dependency<'_>>, serde_json::Error> {
    let line: Line<'_> = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => {
            return match serde_json::from_slice::<Format>(line) {
                Ok(format) if is_newer(format.v) => Ok(Vec::new()),
                _ => Err(error),
            };
        }
    };
    if is_newer(line.v) {
        return Ok(Vec::new());
    }
    let dependencies = line.deps.unwrap_or_default().into_iter();
    Ok(dependencies.map(Dependency::of).collect())
}

#[derive(serde::Deserialize)]
struct Format {
    v: Option<u32>,
}

fn is_newer(format: Option<u32>) -> bool {
    format.is_some_and(|v| v > KNOWN_LINE_FORMAT)
}

impl<'a> Dependency<'a> {
    fn of(dep: Dep<'a>) -> Dependency<'a> {
        let kind = match dep.kind.as_deref() {
            Some("dev") => DependencyKind::Dev,
            Some("build") => DependencyKind::Build,
            _ => DependencyKind::Normal,
        };
        Dependency {
            name: dep.package.unwrap_or(dep.name),
            req: dep.req.unwrap_or(Cow::Borrowed("*")),
            kind,
            optional: dep.optional.unwrap_or(false),
            target: dep.target,
            registry: dep.registry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(deps: &str) -> Vec<Dependency<'_>> {
        let text =
            format!(r#"{{"name":"demo","vers":"1.0.0","deps":{deps},"cksum":"00","x":[1]}}"#);
        dependencies(text.leak().as_bytes()).expect("a good line")
    }

    #[test]
    fn a_dependency_is_read_as_cargo_reads_it() {
        let deps = read(
            r#"[{"name":"a","req":"^1","features":[],"optional":true,"default_features":true,
                 "target":"cfg(unix)","kind":"build","registry":null,"package":null,"new":{}}]"#,
        );
        let dep = &deps[0];
        assert_eq!((&*dep.name, &*dep.req), ("a", "^1"));
        assert_eq!(dep.kind, DependencyKind::Build);
        assert_eq!(dep.target.as_deref(), Some("cfg(unix)"));
        assert!(dep.optional && dep.registry.is_none());
    }

    #[test]
    fn the_name_is_that_of_the_registry() {
        assert_eq!(
            read(r#"[{"name":"mine","package":"theirs","req":"1"}]"#)[0].name,
            "theirs"
        );
    }

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        let check = |deps| {
            let deps = read(deps);
            assert_eq!(deps[0].kind, DependencyKind::Normal);
            assert!(!deps[0].optional);
        };
        check(r#"[{"name":"a","req":"1"}]"#);
        check(r#"[{"name":"a","req":"1","kind":null,"optional":null,"target":null}]"#);
        check(r#"[{"name":"a","req":"1","kind":"artifact-of-the-future"}]"#);
        assert_eq!(read("null"), []);
        assert_eq!(
            read(r#"[{"name":"a","req":"1","kind":"dev"}]"#)[0].kind,
            DependencyKind::Dev
        );
    }

    #[test]
    fn escaped_text_is_read_too() {
        assert_eq!(
            read(r#"[{"name":"\u0061b","req":">=1, \u003c2"}]"#)[0].req,
            ">=1, <2"
        );
    }

    #[test]
    fn a_line_of_a_newer_format_has_none() {
        let line = br#"{"name":"a","vers":"1.0.0","deps":7,"v":3}"#;
        assert_eq!(dependencies(line).expect("passed over"), []);
        let line = br#"{"name":"a","vers":"1.0.0","deps":7,"v":2}"#;
        assert!(dependencies(line).is_err());
        let line = br#"{"name":"a","vers":"1.0.0","deps":[{"name":"b","req":"1"}],"v":3}"#;
        assert_eq!(dependencies(line).expect("passed over"), []);
    }

    #[test]
    fn bytes_that_are_no_line_are_an_error() {
        for bytes in [&b""[..], b"{", b"\xff\xfe", b"[]", br#"{"deps":[{}]}"#] {
            assert!(dependencies(bytes).is_err(), "{bytes:?}");
        }
    }
}
