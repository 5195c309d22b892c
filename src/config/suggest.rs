//! Guesses what a misspelt word was meant to be.

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub(super) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A third of the letters: `adress` finds `addresses`, `port` does not find `mode`.
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The key that was meant by `path`: the nearest, else one that begins like it, else the one with
/// the same word in another table.
pub(super) fn key<'a>(path: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    closest(path, known.clone())
        .or_else(|| begun(path, known.clone()))
        .or_else(|| same_word(path, known))
}

fn begun<'a>(path: &str, mut known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.find(|key| path.len() > 2 && key.starts_with(path))
}

/// The key whose last word is nearest to that of `path`, in whichever table.
fn same_word<'a>(path: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let word = closest(last(path), known.clone().map(last))?;
    known.into_iter().find(|key| last(key) == word)
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_guessed_from_its_neighbours_and_never_from_far_away() {
        let known = ["mode", "listen.addresses", "store.cache", "index.fresh_for"];
        let check = |word: &str, meant: Option<&str>| {
            assert_eq!(key(word, known.into_iter()), meant, "{word}");
        };
        check("mdoe", Some("mode"));
        check("listen.adress", Some("listen.addresses"));
        check("index.fresh", Some("index.fresh_for"));
        check("listen", Some("listen.addresses"));
        check("m", None);
        check("cache", Some("store.cache"));
        check("upstream.cache", Some("store.cache"));
        check("idx.fresh_fro", Some("index.fresh_for"));
        check("port", None);
        check("colour", None);
    }
}
