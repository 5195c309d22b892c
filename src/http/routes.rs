//! Every route on one page, in the order of who uses it.

use actix_web::{Resource, guard, web};

use super::{api, download, git, operations, page, sparse};

/// What the paths of all routes begin with. A path of the public URL that begins so is mistaken for
/// one of them by who comes without the proxy.
pub const FIRST_SEGMENTS: [&str; 11] = [
    "index",
    "api",
    "git",
    "view",
    "crates",
    "static",
    "status.json",
    "crates.json",
    "metrics",
    "healthz",
    "readyz",
];

/// What is read at a path.
fn read(path: &str) -> Resource {
    web::resource(path).guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// What the root index has, and every other view below its own path.
fn index(config: &mut web::ServiceConfig, below: &str) {
    let at = |path: &str| format!("{below}{path}");
    config
        // Used by cargo.
        .service(read(&at("/index/config.json")).to(sparse::config))
        .service(read(&at("/index/{path:.*}")).to(sparse::file))
        .service(read(&at("/api/v1/crates/{crate}/{version}/download")).to(download::download))
        .service(read(&at("/api/v1/crates")).to(api::search))
        // Used by git, and by what cargo has of git inside.
        .service(read(&at("/git/index/info/refs")).to(git::info_refs))
        .service(
            web::resource(at("/git/index/git-upload-pack"))
                .guard(guard::Post())
                .to(git::upload_pack),
        )
        .service(web::resource(at("/git/index/git-receive-pack")).to(git::refuse_push))
        .service(web::resource(at("/git/index/{path:.*}")).to(git::refuse_files))
        .service(web::resource(at("/git/{path:.*}")).to(git::elsewhere))
        // Used by cargo, and refused: this is a mirror.
        .service(web::resource(at("/api/v1/{path:.*}")).to(api::refuse));
}

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .configure(|config| index(config, ""))
        .configure(|config| index(config, "/view/{view}"))
        .service(web::resource("/view/{view}{path:.*}").to(api::unknown_in_view))
        // Used by people, and by scripts as JSON.
        .service(read("/").to(page::overview))
        .service(read("/status.json").to(page::overview))
        .service(read("/crates").to(page::crates))
        .service(read("/crates.json").to(page::crates))
        .service(read("/crates/{name}.json").to(page::krate))
        .service(read("/crates/{name}").to(page::krate))
        .service(read("/static/{file}").to(page::file))
        // Used by Prometheus and load balancers.
        .service(read("/metrics").to(operations::metrics))
        .service(read("/healthz").to(operations::healthz))
        .service(read("/readyz").to(operations::readyz))
        .default_service(web::to(api::unknown));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::FIRST_SEGMENTS;

    #[test]
    fn every_route_begins_with_one_of_the_segments_and_each_with_a_route() {
        let (source, _tests) = include_str!("routes.rs")
            .split_once("#[cfg(test)]")
            .unwrap();
        let paths = source.split("(\"/").skip(1);
        let first = paths.filter_map(|path| path.split(['/', '"']).next());
        let found: BTreeSet<&str> = first.filter(|segment| !segment.is_empty()).collect();
        assert_eq!(found, FIRST_SEGMENTS.into());
    }
}
