//! From data to HTML: the templates, what they need beside the data, and the headers of a page.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web::Bytes,
};
use askama::Template;

use super::{assets, charts, model::Overview, text};
use crate::{
    http::reply,
    status::{CratePage, Level, Point, Range, SearchPage},
};

/// Nothing on a page comes from elsewhere, nothing in it is run or styled that is not a file of
/// ours, and forms lead nowhere else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// The events that are seen at once; older ones unfold.
const SHOWN_EVENTS: usize = 12;

/// What all pages have.
#[derive(Debug)]
pub(super) struct Frame {
    /// The path of the base: links of a page stay at the host it was reached by, which the content
    /// security policy takes for its own whatever `public_url` says.
    pub(super) root: String,
    style: String,
    script: String,
    icon: String,
    version: &'static str,
    /// The query in the search box of the page's head.
    query: String,
}

impl Frame {
    pub(super) fn new(root: &str) -> Frame {
        Frame {
            root: root.to_owned(),
            style: assets::path(root, "orlop.css"),
            script: assets::path(root, "orlop.js"),
            icon: assets::path(root, "favicon.svg"),
            version: env!("CARGO_PKG_VERSION"),
            query: String::new(),
        }
    }
}

/// A row of the table behind the charts.
#[derive(Debug)]
struct Row {
    at: u64,
    hits: u64,
    stale: u64,
    misses: u64,
    point: Point,
}

#[derive(Debug, Template)]
#[template(path = "overview.html", config = "static/askama.toml")]
pub(super) struct OverviewPage {
    frame: Frame,
    is: Overview,
    now: u64,
    /// Whether some of what is to be looked at is more than worth knowing.
    needs_somebody: bool,
    /// Whether nobody has used this mirror yet: then how it is used stands above all else.
    is_new: bool,
    ranges: [Range; 4],
    charts: [charts::Chart; 2],
    /// The length of a column.
    step_seconds: u64,
    /// The columns, the newest first.
    rows: Vec<Row>,
    hits: u64,
    requests: u64,
}

impl OverviewPage {
    pub(super) fn new(root: &str, is: Overview) -> OverviewPage {
        let mut shown = is.traffic.clone();
        let began = charts::unrecorded(&shown);
        shown.points.drain(..began);
        let (step_seconds, points) = charts::thinned(&shown);
        let range = is.traffic.range;
        let mut charts = [
            charts::of_requests(range, &points),
            charts::of_bytes(range, &points),
        ];
        if let (1.., Some(first)) = (began, points.first()) {
            let age = is.now_seconds.saturating_sub(first.at_seconds);
            let oldest = format!("{} ago", text::long_span(age));
            for chart in &mut charts {
                chart.times = vec![oldest.clone(), "now".to_owned()];
            }
        }
        let rows = points.iter().rev().map(|point| Row {
            at: point.at_seconds,
            hits: point.sums.hits(),
            stale: point.sums.index_stale,
            misses: point.sums.misses(),
            point: *point,
        });
        let total = is.traffic.total.sums;
        OverviewPage {
            frame: Frame::new(root),
            now: is.now_seconds,
            needs_somebody: is.attention.iter().any(|one| one.level > Level::Good),
            is_new: is.held.names == 0 && total.requests() == 0,
            ranges: Range::ALL,
            charts,
            step_seconds,
            rows: rows.collect(),
            hits: total.hits().saturating_add(total.index_stale),
            requests: total.requests(),
            is,
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "crates.html", config = "static/askama.toml")]
pub(super) struct CratesPage {
    frame: Frame,
    is: SearchPage,
}

impl CratesPage {
    pub(super) fn new(root: &str, is: SearchPage) -> CratesPage {
        let mut frame = Frame::new(root);
        frame.query.clone_from(&is.query);
        CratesPage { frame, is }
    }
}

#[derive(Debug, Template)]
#[template(path = "crate.html", config = "static/askama.toml")]
pub(super) struct OneCratePage {
    frame: Frame,
    is: CratePage,
    now: u64,
}

impl OneCratePage {
    pub(super) fn new(root: &str, is: CratePage, now_seconds: u64) -> OneCratePage {
        OneCratePage {
            frame: Frame::new(root),
            is,
            now: now_seconds,
        }
    }
}

/// A request that has no page.
#[derive(Debug, Template)]
#[template(path = "problem.html", config = "static/askama.toml")]
pub(super) struct ProblemPage {
    frame: Frame,
    title: &'static str,
    /// What is the matter, as a sentence; names stand in backticks.
    text: String,
    /// What to do about it, as a sentence.
    remedy: String,
}

impl ProblemPage {
    pub(super) fn new(
        root: &str,
        title: &'static str,
        text: String,
        remedy: String,
    ) -> ProblemPage {
        ProblemPage {
            frame: Frame::new(root),
            title,
            text,
            remedy,
        }
    }
}

/// A page with its headers.
pub(super) fn answer(status: StatusCode, page: &impl Template) -> HttpResponse {
    written(page).map_or_else(unwritten, |html| html_answer(status, html))
}

/// A page as text; `None`: it could not be written, and the log says why.
pub(super) fn written(page: &impl Template) -> Option<Bytes> {
    let html = page.render();
    let html = html.inspect_err(|error| tracing::error!(%error, "could not write a page"));
    html.ok().map(Bytes::from)
}

/// What a page is that was written already, with its headers.
pub(super) fn html_answer(status: StatusCode, html: Bytes) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(html)
}

fn unwritten() -> HttpResponse {
    reply::plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        "orlop: could not write this page; the log says why\n".into(),
    )
}
