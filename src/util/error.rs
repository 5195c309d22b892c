//! How an error with its causes is written: as a list, or in one line.

use std::error::Error;

/// `error` and its causes, outermost first.
pub fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The messages of `error` and its causes, outermost first. A cause that repeats the message
/// above it is left out.
pub fn messages(error: &dyn Error) -> Vec<String> {
    let causes = error.source().into_iter().flat_map(chain);
    let mut messages = vec![error.to_string()];
    messages.extend(causes.map(ToString::to_string));
    messages.dedup();
    messages
}

/// The same in one line: `could not open the store: permission denied`.
pub fn one_line(error: &dyn Error) -> String {
    messages(error).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Layered {
        #[error("could not open the store")]
        Outer(#[source] Box<Layered>),
        #[error("permission denied")]
        Wrapper(#[source] Box<Layered>),
        #[error("permission denied")]
        Inner,
    }

    #[test]
    fn an_error_is_written_with_its_causes_and_without_repetition() {
        let wrapper = Layered::Wrapper(Box::new(Layered::Inner));
        let error = Layered::Outer(Box::new(wrapper));
        assert_eq!(chain(&error).count(), 3);
        assert_eq!(
            messages(&error),
            ["could not open the store", "permission denied"]
        );
        assert_eq!(
            one_line(&error),
            "could not open the store: permission denied"
        );
    }
}
