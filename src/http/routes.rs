//! Every route on one page, in the order of who uses it.

use actix_web::{guard, web};

use super::{
    api, download, git, operations,
    page::{self, twin},
    sparse, view,
};

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

/// A view has of the index what the root has.
fn views(config: &mut web::ServiceConfig) {
    let read = || guard::Any(guard::Get()).or(guard::Head());
    config
        .service(
            web::resource("/view/{view}/index/config.json")
                .guard(read())
                .to(view::config),
        )
        .service(
            web::resource("/view/{view}/index/{path:.*}")
                .guard(read())
                .to(view::file),
        )
        .service(
            web::resource("/view/{view}/api/v1/crates/{crate}/{version}/download")
                .guard(read())
                .to(view::download),
        )
        .service(
            web::resource("/view/{view}/api/v1/crates")
                .guard(read())
                .to(view::search),
        )
        .service(
            web::resource("/view/{view}/git/index/info/refs")
                .guard(read())
                .to(git::info_refs),
        )
        .service(
            web::resource("/view/{view}/git/index/git-upload-pack")
                .guard(guard::Post())
                .to(git::upload_pack),
        )
        .service(web::resource("/view/{view}/git/index/git-receive-pack").to(git::refuse_push))
        .service(web::resource("/view/{view}/git/index/{path:.*}").to(git::refuse_files))
        .service(web::resource("/view/{view}/git/{path:.*}").to(git::elsewhere))
        .service(web::resource("/view/{view}/api/v1/{path:.*}").to(view::refuse))
        .service(web::resource("/view/{view}{path:.*}").to(view::unknown));
}

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    let read = || guard::Any(guard::Get()).or(guard::Head());
    config
        // Used by cargo.
        .service(
            web::resource("/index/config.json")
                .guard(read())
                .to(sparse::config),
        )
        .service(
            web::resource("/index/{path:.*}")
                .guard(read())
                .to(sparse::file),
        )
        .service(
            web::resource("/api/v1/crates/{crate}/{version}/download")
                .guard(read())
                .to(download::download),
        )
        .service(
            web::resource("/api/v1/crates")
                .guard(read())
                .to(api::search),
        )
        // Used by git, and by what cargo has of git inside.
        .service(
            web::resource("/git/index/info/refs")
                .guard(read())
                .to(git::info_refs),
        )
        .service(
            web::resource("/git/index/git-upload-pack")
                .guard(guard::Post())
                .to(git::upload_pack),
        )
        .service(web::resource("/git/index/git-receive-pack").to(git::refuse_push))
        .service(web::resource("/git/index/{path:.*}").to(git::refuse_files))
        .service(web::resource("/git/{path:.*}").to(git::elsewhere))
        .configure(views)
        // Used by cargo, and refused: this is a mirror.
        .service(web::resource("/api/v1/{path:.*}").to(api::refuse))
        // Used by people.
        .service(web::resource("/").guard(read()).to(page::overview))
        .service(web::resource("/crates").guard(read()).to(page::crates))
        .service(web::resource("/static/{file}").guard(read()).to(page::file))
        // Used by scripts: the same as data.
        .service(
            web::resource("/status.json")
                .guard(read())
                .to(twin::overview),
        )
        .service(web::resource("/crates.json").guard(read()).to(twin::search))
        .service(
            web::resource("/crates/{name}.json")
                .guard(read())
                .to(twin::krate),
        )
        .service(
            web::resource("/crates/{name}")
                .guard(read())
                .to(page::krate),
        )
        // Used by Prometheus and load balancers.
        .service(
            web::resource("/metrics")
                .guard(read())
                .to(operations::metrics),
        )
        .service(
            web::resource("/healthz")
                .guard(read())
                .to(operations::healthz),
        )
        .service(
            web::resource("/readyz")
                .guard(read())
                .to(operations::readyz),
        )
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
        let paths = source.split("web::resource(\"/").skip(1);
        let first = paths.filter_map(|path| path.split(['/', '"']).next());
        let found: BTreeSet<&str> = first.filter(|segment| !segment.is_empty()).collect();
        assert_eq!(found, FIRST_SEGMENTS.into());
    }
}
