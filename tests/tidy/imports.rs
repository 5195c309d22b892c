//! Which file uses what of which other file: parsed, with re-exports followed to the file that defines
//! a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Path as SynPath, UseTree, Visibility,
    visit::{self, Visit},
};

use super::Source;

/// A module's path below the crate: `["http", "page"]`.
type Module = Vec<String>;

/// The imports of the crate, from file to file.
pub(crate) struct Imports {
    edges: BTreeMap<(String, String), BTreeSet<String>>,
    files: BTreeSet<String>,
}

/// That one file uses names of another.
pub(crate) struct Edge<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    names: &'a BTreeSet<String>,
}

impl fmt::Display for Edge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let (from, to) = (self.from, self.to);
        write!(f, "src/{from} uses {} of src/{to}", names.join(", "))
    }
}

impl Imports {
    /// The imports of these files. `with_tests`: also those of test code.
    pub(crate) fn of(sources: &[Source], with_tests: bool) -> Imports {
        let mut krate = Crate::default();
        for source in sources {
            if !with_tests && is_test_file(&source.path) {
                continue;
            }
            let parsed = syn::parse_file(&source.text);
            let parsed = parsed.unwrap_or_else(|error| panic!("src/{}: {error}", source.path));
            let module = module_of(&source.path);
            krate.files.insert(module.clone(), source.path.clone());
            let mut seen = Seen {
                module,
                with_tests,
                ..Seen::default()
            };
            seen.visit_file(&parsed);
            krate.seen.push(seen);
        }
        krate.imports()
    }

    /// Every file that was looked at.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Every use of one file by another.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge<'_>> {
        self.edges
            .iter()
            .map(|((from, to), names)| Edge { from, to, names })
    }

    /// The groups of files that use one another in a circle.
    pub(crate) fn cycles(&self) -> Vec<BTreeSet<&str>> {
        let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for edge in self.edges() {
            next.entry(edge.from).or_default().push(edge.to);
        }
        let files = self.files();
        let reachable: BTreeMap<&str, BTreeSet<&str>> =
            files.map(|file| (file, reachable(&next, file))).collect();
        let mut cycles: Vec<BTreeSet<&str>> = Vec::new();
        for (file, to) in &reachable {
            if !to.contains(file) || cycles.iter().any(|cycle| cycle.contains(file)) {
                continue;
            }
            let back = |other: &&&str| reachable.get(**other).is_some_and(|it| it.contains(file));
            cycles.push(to.iter().filter(back).copied().collect());
        }
        cycles
    }
}

fn reachable<'a>(next: &BTreeMap<&'a str, Vec<&'a str>>, file: &'a str) -> BTreeSet<&'a str> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![file]);
    while let Some(from) = waiting.pop() {
        let to = next.get(from).into_iter().flatten().copied();
        waiting.extend(to.filter(|to| found.insert(*to)));
    }
    found
}

/// Whether a file has tests only.
pub(crate) fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.contains("/tests/")
        || name.ends_with("_tests.rs")
        || matches!(name, "tests.rs" | "testing.rs" | "world.rs")
}

fn module_of(path: &str) -> Module {
    let stem = path.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == "lib" {
        return Module::new();
    }
    stem.split('/').map(str::to_owned).collect()
}

/// What one file says.
#[derive(Default)]
struct Seen {
    module: Module,
    with_tests: bool,
    /// How deep the walk is in modules that are written inside the file.
    inline: Module,
    /// Names that it passes on, and where they come from.
    passed_on: Vec<(String, Vec<String>)>,
    /// Paths that it uses.
    used: Vec<Vec<String>>,
}

impl Seen {
    fn is_left_out(&self, attributes: &[Attribute]) -> bool {
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .meta
                    .require_list()
                    .is_ok_and(|list| list.tokens.to_string().starts_with("test"))
        };
        !self.with_tests && attributes.iter().any(is_test)
    }

    /// A path as one of the file's own module: `super` in a module inside of it is `self`.
    fn note(&mut self, mut path: Vec<String>) {
        for _depth in &self.inline {
            match path.first().map(String::as_str) {
                Some("super") => drop(path.remove(0)),
                Some("crate") => {}
                _ => return,
            }
        }
        let is_rooted = path
            .first()
            .is_some_and(|it| it == "crate" || it == "super");
        if !is_rooted && !self.inline.is_empty() {
            path.insert(0, "self".to_owned());
        }
        self.used.push(path);
    }

    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut path);
                    self.note_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end(&mut path),
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.note(path);
        }
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !self.is_left_out(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !self.is_left_out(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.inline.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.inline.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_passed_on = !matches!(item.vis, Visibility::Inherited);
        for path in flat(&item.tree, &[]) {
            match path.last() {
                Some(name) if is_passed_on => self.passed_on.push((name.clone(), path)),
                _ => self.note(path),
            }
        }
    }

    fn visit_path(&mut self, path: &'ast SynPath) {
        let segments = path.segments.iter();
        let names: Vec<String> = segments.map(|part| part.ident.to_string()).collect();
        if names.len() > 1 {
            self.note(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.note_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

fn flat(tree: &UseTree, before: &[String]) -> Vec<Vec<String>> {
    let with = |name: String| [before, &[name]].concat();
    match tree {
        UseTree::Path(path) => flat(&path.tree, &with(path.ident.to_string())),
        UseTree::Name(name) if name.ident == "self" => vec![before.to_vec()],
        UseTree::Name(name) => vec![with(name.ident.to_string())],
        UseTree::Rename(rename) => vec![with(rename.ident.to_string())],
        UseTree::Glob(_) => vec![with("*".to_owned())],
        UseTree::Group(group) => {
            let trees = group.items.iter();
            trees.flat_map(|tree| flat(tree, before)).collect()
        }
    }
}

/// Where the names that a module passes on come from.
type PassedOn = BTreeMap<(Module, String), Vec<String>>;

#[derive(Default)]
struct Crate {
    files: BTreeMap<Module, String>,
    seen: Vec<Seen>,
}

impl Crate {
    fn imports(&self) -> Imports {
        let mut passed_on = PassedOn::new();
        for seen in &self.seen {
            for (name, path) in &seen.passed_on {
                passed_on.insert((seen.module.clone(), name.clone()), path.clone());
            }
        }
        let mut edges: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for seen in &self.seen {
            let Some(from) = self.files.get(&seen.module) else {
                continue;
            };
            for path in &seen.used {
                let Some((module, name)) = self.resolve(&passed_on, &seen.module, path, 0) else {
                    continue;
                };
                let Some(to) = self.files.get(&module) else {
                    continue;
                };
                if to != from && !is_in_folder_of(from, to) {
                    let edge = edges.entry((from.clone(), to.clone())).or_default();
                    edge.insert(name);
                }
            }
        }
        Imports {
            edges,
            files: self.files.values().cloned().collect(),
        }
    }

    /// The module that defines the name that `path` in `module` leads to; `None`: it leads out of the
    /// crate, or to a module itself.
    fn resolve(
        &self,
        passed_on: &PassedOn,
        module: &[String],
        path: &[String],
        depth: u8,
    ) -> Option<(Module, String)> {
        let (mut base, mut rest) = match path.first()?.as_str() {
            "crate" | "orlop" => (Module::new(), path.get(1..)?),
            "self" => (module.to_vec(), path.get(1..)?),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let base = module.get(..module.len().checked_sub(ups)?)?;
                (base.to_vec(), path.get(ups..)?)
            }
            first => {
                let child = [module, &[first.to_owned()]].concat();
                self.files.get(&child)?;
                (module.to_vec(), path)
            }
        };
        while let Some((name, after)) = rest.split_first() {
            let child = [base.as_slice(), std::slice::from_ref(name)].concat();
            if self.files.contains_key(&child) {
                (base, rest) = (child, after);
                continue;
            }
            let source = passed_on.get(&(base.clone(), name.clone()));
            let Some(source) = source.filter(|_| depth < 8) else {
                return Some((base, name.clone()));
            };
            let mut longer = source.clone();
            longer.extend(after.iter().cloned());
            let from = base.clone();
            let resolved = self.resolve(passed_on, &from, &longer, depth + 1);
            return resolved.or(Some((base, name.clone())));
        }
        None
    }
}

/// Whether `from` lies below the folder whose `mod.rs` is `to`: it may use what its parent has.
fn is_in_folder_of(from: &str, to: &str) -> bool {
    let folder = to.strip_suffix("mod.rs");
    folder.is_some_and(|folder| from.starts_with(folder))
}

/// The check checked.
#[cfg(test)]
mod finds {
    use super::{Imports, Source};

    fn imports(files: &[(&str, &str)]) -> Imports {
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        let sources: Vec<Source> = files.iter().map(source).collect();
        Imports::of(&sources, false)
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[(&str, &str)]) {
        let imports = imports(files);
        let found: Vec<_> = imports.edges().map(|edge| (edge.from, edge.to)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_that_was_passed_on_leads_to_the_file_that_defines_it() {
        let files = [
            ("a/mod.rs", "mod inner; pub use self::inner::Thing;"),
            ("a/inner.rs", "pub struct Thing;"),
            ("b.rs", "use crate::a::Thing;"),
            ("c.rs", "fn f() { let _ = crate::a::Thing; }"),
            (
                "d.rs",
                "fn f() { println!(\"{:?}\", crate::a::Thing::new()); }",
            ),
        ];
        check(
            &files,
            &[
                ("b.rs", "a/inner.rs"),
                ("c.rs", "a/inner.rs"),
                ("d.rs", "a/inner.rs"),
            ],
        );
    }

    #[test]
    fn a_child_may_use_what_its_parent_has_and_tests_what_they_like() {
        let files = [
            ("a/mod.rs", "mod inner; pub struct Thing;"),
            ("a/inner.rs", "use super::Thing;"),
            ("b.rs", "#[cfg(test)] mod tests { use crate::a::Thing; }"),
        ];
        check(&files, &[]);
    }

    #[test]
    fn a_circle_is_found_whatever_it_goes_through() {
        let files = [
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::{self, C};"),
            ("c.rs", "fn f() { crate::a::g(); }"),
            ("d.rs", "use crate::a::g;"),
        ];
        let imports = imports(&files);
        let cycles = imports.cycles();
        assert_eq!(cycles.len(), 1);
        let cycle: Vec<&str> = cycles[0].iter().copied().collect();
        assert_eq!(cycle, ["a.rs", "b.rs", "c.rs"]);
    }
}
