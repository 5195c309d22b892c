//! The pages as they are rendered, from data that no server has to be run for.

use askama::Template;

use super::{
    model::Overview,
    render::{CratesPage, OneCratePage, OverviewPage, ProblemPage},
    sample,
};
use crate::status::CratePage;

/// A page without what changes with each change of style or script.
fn rendered(page: &impl Template) -> String {
    let html = page.render().expect("a page");
    let mut kept = String::with_capacity(html.len());
    let mut pieces = html.split("?v=");
    kept.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        kept.push_str("?v=HASH");
        kept.push_str(piece.trim_start_matches(|letter: char| letter.is_ascii_hexdigit()));
    }
    kept
}

/// The text of a page as somebody reads it who sees neither shapes nor colours.
fn read(page: &impl Template) -> String {
    let html = rendered(page);
    let mut text = String::new();
    let mut lines: Vec<String> = Vec::new();
    for piece in html.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').unwrap_or((piece, ""));
        let name: String = tag.chars().take_while(|c| *c != ' ').collect();
        if ["/td", "/th", "/dt", "/a", "/span", "/li", "/button"].contains(&name.as_str()) {
            text.push(' ');
        }
        if [
            "p", "li", "div", "tr", "h1", "h2", "h3", "summary", "pre", "title", "desc", "section",
        ]
        .contains(&name.trim_start_matches('/'))
        {
            lines.push(std::mem::take(&mut text));
        }
        text.push_str(words);
    }
    lines.push(text);
    let squeezed = lines
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    squeezed
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// With a short table.
fn an_hour_of(mut page: Overview) -> Overview {
    let kept = page.traffic.points.len().saturating_sub(3);
    page.traffic.points.drain(..kept);
    page
}

#[test]
fn an_empty_store_reads_well() {
    insta::assert_snapshot!(read(&OverviewPage::new("", an_hour_of(sample::empty()))));
}

#[test]
fn a_busy_store_reads_well() {
    insta::assert_snapshot!(read(&OverviewPage::new("", an_hour_of(sample::busy()))));
}

#[test]
fn trouble_reads_well() {
    insta::assert_snapshot!(read(&OverviewPage::new("", an_hour_of(sample::trouble()))));
}

#[test]
fn a_crate_reads_well() {
    insta::assert_snapshot!(read(&OneCratePage::new("", sample::krate(), sample::NOW)));
}

#[test]
fn a_search_reads_well() {
    insta::assert_snapshot!(read(&CratesPage::new("", sample::found())));
}

#[test]
fn a_page_is_whole_html() {
    insta::assert_snapshot!(rendered(&ProblemPage::new(
        "/sub",
        "Not found",
        "Nothing is known of crate `left-pad` here yet.".to_owned(),
        "Look for a crate in the search above.".to_owned(),
    )));
}

/// Pages with what their texts must not do to them.
fn hostile_pages() -> Vec<String> {
    let evil = "<script>alert(\"1\")</script>'&";
    let krate = CratePage {
        name: evil.to_owned(),
        dependency: evil.to_owned(),
        max_version: Some(evil.to_owned()),
        ..sample::krate()
    };
    let mut found = sample::found();
    found.query = evil.to_owned();
    let problem = ProblemPage::new("", "Not found", evil.to_owned(), evil.to_owned());
    vec![
        rendered(&OverviewPage::new("", sample::hostile())),
        rendered(&OneCratePage::new("", krate, sample::NOW)),
        rendered(&CratesPage::new("", found)),
        rendered(&problem),
    ]
}

#[test]
fn nothing_that_somebody_names_gets_out_of_its_place() {
    for page in hostile_pages() {
        assert!(!page.contains("<script>"), "{page}");
        assert!(!page.contains("alert(\"1\")"), "{page}");
        assert!(
            page.contains("&#60;script&#62;"),
            "it is shown all the same"
        );
    }
}

/// What a strict content security policy would not let pass, and what would ask elsewhere.
#[test]
fn no_page_has_styles_or_scripts_of_its_own() {
    let mut pages = hostile_pages();
    for page in [sample::empty(), sample::busy(), sample::trouble()] {
        pages.push(rendered(&OverviewPage::new("", page)));
    }
    for page in pages {
        for forbidden in [" style=", "<style", " onclick=", " onload=", "javascript:"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        for attribute in ["href=\"", "src=\"", "action=\""] {
            for link in page.split(attribute).skip(1) {
                assert!(
                    link.starts_with('/') || link.starts_with('#'),
                    "{attribute}{link:.40}"
                );
            }
        }
    }
}

#[test]
fn links_stay_below_the_path_of_the_base() {
    let page = rendered(&OverviewPage::new("/rust", sample::busy()));
    for attribute in ["href=\"", "src=\"", "action=\""] {
        for link in page.split(attribute).skip(1) {
            assert!(
                link.starts_with("/rust/") || link.starts_with('#'),
                "{link:.40}"
            );
        }
    }
}

/// The pages of the samples as files, for those who work on their looks.
#[test]
#[ignore = "writes files to look at"]
fn write_the_samples() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pages");
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, page: &dyn Fn() -> String| {
        std::fs::write(folder.join(name), page()).expect("a file");
    };
    let overview = |data| move || OverviewPage::new("", data).render().expect("a page");
    for (name, data) in [
        ("empty.html", sample::empty()),
        ("busy.html", sample::busy()),
        ("trouble.html", sample::trouble()),
    ] {
        let text = overview(data)();
        write(name, &|| text.clone());
    }
    write("crate.html", &|| {
        OneCratePage::new("", sample::krate(), sample::NOW)
            .render()
            .expect("a page")
    });
    write("crates.html", &|| {
        CratesPage::new("", sample::found())
            .render()
            .expect("a page")
    });
    write("problem.html", &|| {
        ProblemPage::new("", "Not found", "Nothing is known of crate `left-pad` here yet: it appears once a cargo asks this mirror for it.".into(), "Look for a crate in the search above, or go back to the status.".into())
            .render()
            .expect("a page")
    });
}
