//! Logs on stderr: for people or as JSON, in colour only on a terminal.

use std::error::Error as StdError;
use std::io::{self, IsTerminal, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Error;
use crate::config::{LogConfig, LogFormat};
use crate::http::QUIET_TARGETS;

/// Starts the log of this process, and gives back what chooses other lines for it later.
pub(super) fn start(log: &LogConfig, no_color: bool) -> Result<Chooser, Error> {
    let color = !no_color && io::stderr().is_terminal();
    let (subscriber, chooser) = subscriber(log, color, io::stderr).map_err(Error::Log)?;
    let started = subscriber.try_init();
    started.map_err(|error| Error::Log(error.into()))?;
    Ok(chooser)
}

type Made = (Box<dyn Subscriber + Send + Sync>, Chooser);

type Trouble = Box<dyn StdError + Send + Sync>;

/// Chooses which lines are written, while the program runs.
pub(super) struct Chooser(Box<dyn Fn(EnvFilter) -> Result<(), Trouble> + Send + Sync>);

impl Chooser {
    /// Has the lines of `filter` written from now on.
    pub(super) fn choose(&self, filter: &str) -> Result<(), Trouble> {
        (self.0)(parsed(filter)?)
    }
}

fn parsed(filter: &str) -> Result<EnvFilter, Trouble> {
    Ok(EnvFilter::builder().parse(format!("{QUIET_TARGETS},{filter}"))?)
}

fn subscriber<W>(
    log: &LogConfig,
    color: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> Result<Made, Box<dyn StdError + Send + Sync>>
where
    W: Write + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed(&log.filter)?)
        .with_writer(writer)
        .with_ansi(color)
        // A closed stderr must not end in a panic of the thread that wanted to say something.
        .log_internal_errors(false);
    Ok(match log.format {
        LogFormat::Human => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let choose = Box::new(move |filter| Ok(handle.reload(filter)?));
            (Box::new(builder.finish()), Chooser(choose))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let choose = Box::new(move |filter| Ok(handle.reload(filter)?));
            (Box::new(builder.finish()), Chooser(choose))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A place that lines are written to.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, color: bool) -> String {
        let log = LogConfig {
            format,
            filter: filter.to_owned(),
        };
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, _chooser) = subscriber(&log, color, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(krate.name = "serde", size_bytes = 7, "fetched");
            tracing::debug!("details");
        });
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_its_message_and_fields_at_the_top() {
        let line = logged(LogFormat::Json, "info", true);
        let value: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
        assert_eq!(value["message"], "fetched");
        assert_eq!(value["krate.name"], "serde");
        assert_eq!(value["size_bytes"], 7);
        assert_eq!(value["level"], "INFO");
    }

    #[test]
    fn another_filter_may_be_chosen_while_it_runs() {
        let log = LogConfig {
            format: LogFormat::Json,
            filter: "info".to_owned(),
        };
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, chooser) = subscriber(&log, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("before");
            chooser.choose("debug").unwrap();
            tracing::debug!("after");
            assert!(chooser.choose("a=b=c").is_err());
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("after") && !text.contains("before"), "{text}");
    }

    #[test]
    fn the_filter_chooses_lines_and_colour_is_a_choice() {
        let plain = logged(LogFormat::Human, "info", false);
        assert_eq!(plain.lines().count(), 1, "{plain}");
        assert!(
            plain.contains("fetched") && !plain.contains('\u{1b}'),
            "{plain}"
        );
        assert!(logged(LogFormat::Human, "debug", true).contains('\u{1b}'));
        assert_eq!(logged(LogFormat::Human, "off", false), "");
    }
}
